"""Laws of commits: whatever order runs finish in, and wherever the worker crashes, nothing unfinished is committed."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from streamer.core.lane import Lane, Verdict


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    order=st.randoms(use_true_random=False),
    finished=st.integers(0, 12),
)
def test_committable_is_the_end_of_the_done_prefix(lengths: list[int], order: Random, finished: int) -> None:
    lane = Lane(generation=1, expected=0)
    spans, next_offset = [], 0
    for length in lengths:
        spans.append(lane.deliver(next_offset, next_offset + length - 1))
        next_offset += length
    shuffled = list(range(len(spans)))
    order.shuffle(shuffled)
    done = set(shuffled[:finished])
    for i in shuffled[:finished]:
        lane.complete(spans[i])
    prefix = 0
    while prefix in done:
        prefix += 1
    assert lane.committable == (spans[prefix - 1].last + 1 if prefix else None)
    assert len(lane.spans) == len(spans) - prefix


@dataclass
class Reader:
    """A worker's view of a log of consecutive offsets: fetches may be stale, repeated or have holes."""

    committed: int = 0
    absorbed: list[int] = field(default_factory=list)


@given(
    log_end=st.integers(1, 40),
    steps=st.lists(
        st.tuples(st.integers(-3, 6), st.integers(1, 6), st.booleans(), st.booleans()), max_size=60
    ),
)
def test_every_offset_is_absorbed_once_in_order_across_crashes(
    log_end: int, steps: list[tuple[int, int, bool, bool]]
) -> None:
    reader = Reader()
    generation, lane, open_spans = 1, Lane(1, 0), []
    position = 0
    state_applied = (
        -1
    )  # as the state record keeps it: survives crashes once the run's records are acknowledged
    for jump, size, finish_newest, crash in [*steps, *[(0, 6, False, False)] * 60]:
        first = max(0, position + min(jump, 0))  # a stale fetch reaches back
        first = min(first + max(jump, 0), log_end)  # a lossy one jumps ahead
        last = min(first + size - 1, log_end - 1)
        if first <= last:
            verdict = lane.judge(first, last)
            if verdict is Verdict.REFETCH:
                position = lane.expected
            elif verdict is Verdict.TAKE and first <= lane.expected:
                open_spans.append(lane.deliver(lane.expected, last))
                position = last + 1
            elif verdict is Verdict.TAKE:
                position = lane.expected  # the log has no holes here, so a second look finds the records
        if open_spans:
            # runs of a partition are sent in order, but may be marked done in any
            span = open_spans.pop(-1 if finish_newest and len(open_spans) == 1 else 0)
            for offset in range(span.first, span.last + 1):
                if offset > state_applied:
                    reader.absorbed.append(offset)
                    state_applied = offset
            lane.complete(span)
        if lane.committable is not None:
            assert lane.committable <= state_applied + 1
            reader.committed = lane.committable
        if crash:
            generation += 1
            lane, open_spans, position = Lane(generation, reader.committed), [], reader.committed
    assert reader.absorbed == list(range(len(reader.absorbed)))
    assert reader.absorbed[-1] == log_end - 1


def test_a_hole_is_refetched_once_and_then_believed() -> None:
    lane = Lane(generation=3, expected=10)
    assert lane.judge(12, 14) is Verdict.REFETCH
    assert lane.judge(12, 14) is Verdict.TAKE
    assert lane.log_gaps == 1


def test_what_was_delivered_is_stale() -> None:
    lane = Lane(generation=3, expected=10)
    assert lane.judge(4, 9) is Verdict.STALE
    assert lane.judge(4, 10) is Verdict.TAKE
