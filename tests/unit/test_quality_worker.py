"""The worker in the benchmark's process: nothing of the future reaches a list, and delays look back as far as they say."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import freshness, prequential
from benchmarks.quality.judging import NONE
from benchmarks.quality.log import Log
from benchmarks.quality.prequential import Judged
from benchmarks.quality.worker import InProcessWorker
from streamer.core.event_types import EventTypes
from streamer.core.protocol import ItemRecord
from streamer.core.signals.blend import Blend
from streamer.core.signals.options import HIDDEN
from streamer.core.signals.weights import Shipped
from streamer.settings import Settings

EVENTS, USERS, ITEMS, CUT = 240, 9, 40, 160
HOUR_MS = 3_600_000


def a_log(mask: bool = False, step_ms: int = HOUR_MS) -> Log:
    """Nine users, one of them new after the cut; five events share each moment."""
    rng = np.random.default_rng(3)
    user = rng.integers(0, USERS - 1, EVENTS)
    user[CUT::7] = USERS - 1
    return Log(
        user=user,
        item=rng.integers(0, ITEMS, EVENTS),
        type=np.full(EVENTS, 1, np.uint8),
        value=np.full(EVENTS, np.nan, np.float32),
        time_ms=1_700_000_000_000 + np.arange(EVENTS) // 5 * step_ms,
        users=USERS,
        items=[ItemRecord(str(row), f"item {row}") for row in range(ITEMS)],
        has_text=False,
        types=EventTypes.DEFAULT,
        notes=(),
    ).masked(mask)


def a_worker(artefact: Path, log: Log, mask: bool = False) -> InProcessWorker:
    contents = np.random.default_rng(0).normal(size=(ITEMS, 384)).astype(np.float32)
    contents /= np.linalg.norm(contents, axis=1, keepdims=True)
    worker = InProcessWorker(artefact, log, contents, Settings(), mask=mask)
    worker.list_items(np.arange(ITEMS))
    return worker


def blending(worker: InProcessWorker) -> InProcessWorker:
    """With a model that brings weights along, so that lists are blended from the first row on, and learned from."""
    assert worker.collaborate is not None
    shipped = Shipped.of(Blend(HIDDEN, 0.003, 0), HOUR_MS / 5)
    worker._model = replace(worker._model, blend=shipped)
    return worker


def streamed(artefact: Path, log: Log, most: int = EVENTS, *, blended: bool = False) -> Judged:
    judged = prequential.nothing_yet(log, CUT, False, most)
    worker = a_worker(artefact, log)
    prequential.stream(blending(worker) if blended else worker, judged)
    return judged


def test_the_worker_is_wired_as_the_settings_say(artefact: Path) -> None:
    log = a_log()
    worker = blending(a_worker(artefact, log))
    worker.warm(CUT)
    assert worker.collaborate is not None
    signals = worker.collaborate.shared.signals
    assert signals is not None
    assert signals.counts.events == CUT, "what was told was counted, each event once"
    assert worker.collaborate.shared.ready
    contents = np.zeros((ITEMS, 384), np.float32)
    alone = InProcessWorker(artefact, log, contents, replace(Settings(), signals="off"), mask=False)
    assert alone.collaborate is None
    for first, last in worker.batches(CUT, EVENTS):
        worker.absorb(first, last)
    assert signals.blend.version > 0, "it learns along"


def test_asking_leaves_no_trace(artefact: Path) -> None:
    log = a_log()
    asked, other = (blending(a_worker(artefact, log)) for _ in range(2))
    for worker in (asked, other):
        worker.warm(CUT)
    for first, last in other.batches(CUT, EVENTS):
        asked.ask(log.user[first:last].tolist())
        assert asked.absorb(first, last) == other.absorb(first, last)


def test_batches_hold_a_user_once_and_lose_no_event(artefact: Path) -> None:
    log = a_log()
    batches = list(a_worker(artefact, log).batches(10, EVENTS))
    assert [row for first, last in batches for row in range(first, last)] == list(range(10, EVENTS))
    assert all(len(set(log.user[first:last].tolist())) == last - first for first, last in batches)


def test_every_event_gets_a_list_and_none_is_rejected(artefact: Path) -> None:
    judged = streamed(artefact, a_log())
    assert judged.listed.all()
    assert not any("rejected" in note for note in judged.notes)
    assert (judged.lists != NONE).all()
    assert sorted(judged.warm_lists) == list(range(USERS - 1))


@pytest.mark.parametrize("blended", [False, True])
@pytest.mark.parametrize("changed", [200, EVENTS - 1])
def test_lists_do_not_depend_on_what_comes_later(artefact: Path, changed: int, blended: bool) -> None:
    log = a_log()
    item = log.item.copy()
    item[changed] = (item[changed] + 7) % ITEMS
    before = streamed(artefact, log, blended=blended)
    after = streamed(artefact, replace(log, item=item), blended=blended)
    rows = np.arange(CUT, changed + 1)
    for name in ("stream", "stream_unasked", "stream_asked"):
        same = before.ranks[name][: len(rows) - 1] == after.ranks[name][: len(rows) - 1]
        assert same.all()
    # The lists of the batch before the change, too: it is what the change is judged by.
    np.testing.assert_array_equal(before.lists[: changed - CUT - USERS], after.lists[: changed - CUT - USERS])


def rank_in(found: np.ndarray, item: int) -> int:
    return found.tolist().index(item) + 1 if item in found.tolist() else 0


def test_an_event_is_judged_by_the_newest_list_of_its_user(artefact: Path) -> None:
    log = a_log(step_ms=12 * 60_000)
    judged = streamed(artefact, log, blended=True)
    starts = 0
    for row in range(CUT, EVENTS):
        at, item = row - CUT, int(log.item[row])
        earlier = [each for each in range(row) if log.user[each] == log.user[row]]
        start = not earlier or log.time_ms[row] - log.time_ms[earlier[-1]] > 30 * 60_000
        starts += start
        assert judged.requested[at] == start
        if earlier and earlier[-1] >= CUT:
            unasked = rank_in(judged.lists[earlier[-1] - CUT], item)
            assert judged.ranks["stream_unasked"][at] == unasked
        expected = rank_in(judged.requested_lists[at], item) if start else judged.ranks["stream_unasked"][at]
        assert judged.ranks["stream"][at] == expected
        if start:
            assert judged.ranks["stream_asked"][at] == expected
    assert 10 < starts < EVENTS - CUT - 10
    assert (judged.requested_lists[judged.requested] != NONE).all()
    assert (judged.ranks["stream"] != judged.ranks["stream_unasked"]).any()


def test_a_request_is_answered_as_of_now_and_leaves_no_trace_in_later_lists(artefact: Path) -> None:
    log = a_log()
    requested, other = (blending(a_worker(artefact, log)) for _ in range(2))
    for worker in (requested, other):
        worker.warm(CUT)
    for first, last in other.batches(CUT, EVENTS):
        users = log.user[first:last].tolist()
        expected = requested.ask(users)
        assert requested.request(first, np.arange(first, last)) == expected
        assert requested.absorb(first, last) == other.absorb(first, last)
    assert requested.rejected == 0
    assert requested.request(EVENTS, np.arange(0)) == requested.ask([]) == {}


def test_what_was_taken_is_left_out_where_it_is_masked(artefact: Path) -> None:
    log = a_log(mask=True)
    worker = a_worker(artefact, log, mask=True)
    lists = worker.warm(CUT)
    for user, found in lists.items():
        assert not set(found) & set(log.item[:CUT][log.user[:CUT] == user].tolist())


def test_judged_blocks_see_the_events_between_them(artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prequential, "BLOCK", 10)
    log = a_log()
    judged, everything = streamed(artefact, log, 20), streamed(artefact, log)
    assert len(judged.rows) == 20
    assert not judged.listed.all()
    at = judged.rows - CUT
    agreeing = judged.ranks["stream"] == everything.ranks["stream"][at]
    assert (
        agreeing.mean() > 0.7
    )  # lists between the blocks are made a little later: popularity may have moved


def test_delays_look_back_as_far_as_they_say(artefact: Path) -> None:
    log = a_log()
    judged = streamed(artefact, log)
    ranks, usable = freshness.curve(judged)
    assert len(usable) > 10
    from_requests = 0
    np.testing.assert_array_equal(ranks["0s"], judged.ranks["stream"][usable])
    for name, delay_ms in freshness.DELAYS_MS.items():
        for place, row in enumerate(judged.rows[usable].tolist()):
            known = [
                each
                for each in range(CUT, row)
                if log.user[each] == log.user[row]
                and (delay_ms == 0 or log.time_ms[each] <= log.time_ms[row] - delay_ms)
            ]
            if known:
                own = np.flatnonzero(log.user == log.user[row])
                asked = [
                    each
                    for before, each in pairwise(own)
                    if known[-1] < each <= row and log.time_ms[each] - log.time_ms[before] >= delay_ms
                    if judged.requested[each - CUT]
                ]
                expected = rank_in(
                    judged.requested_lists[asked[-1] - CUT] if asked else judged.lists[known[-1] - CUT],
                    int(log.item[row]),
                )
                assert ranks[name][place] == expected
                from_requests += bool(asked) and delay_ms > 0
    assert from_requests > 5
