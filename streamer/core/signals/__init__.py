"""Collaborative signals that learn with every event, and the blend of them.

How it is called, per batch of events in stream order (n events; item rows are the caller's numbering 0..N-1, any growing one):

    signals = Signals(SignalOptions.for_log(training_time_ms, repeats=...))   # one setting for every log, only clocks differ
    past = histories.before(user, item, time_ms)      # Contexts (n,): what each user did before its event
    ranked = signals.rank(past, k, excluded, extra)   # before anything of the batch is learned
    signals.learn(past, item, excluded, extra)        # one step of the blend on these judged events (or a sample of them)
    signals.absorb(past, item, weight, time_ms)       # the shared counts
    histories.add(user, item, time_ms)

`excluded` (M, 2) are pairs of (place in the contexts, item row), as `core.ranking.exclusions` makes them. `extra` maps
`gru` and `text` to scores over candidates, see `Extra`. A worker fills `Contexts` from the user's behaviour window instead
of `Histories`. `state()` and `Signals.from_state()` are a dictionary of arrays and numbers: all counts; not what the blend
learned (`weights.py`), not the safeguard, not the events kept for replay.
"""

from streamer.core.signals.history import Contexts, Histories
from streamer.core.signals.lists import SINGLES, Extra, Judged, Ranked
from streamer.core.signals.options import SignalOptions
from streamer.core.signals.signals import Signals

__all__ = ["SINGLES", "Contexts", "Extra", "Histories", "Judged", "Ranked", "SignalOptions", "Signals"]
