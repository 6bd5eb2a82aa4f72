"""Sizes of what is sent: no estimate below the truth, and no dead letter that the broker must refuse."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.core.dead_letters import CUT_FROM, dead_letter_headers
from streamer.core.rejections import Reason, Rejected
from streamer.transport.batch_producer import (
    BATCH_BYTES,
    Outgoing,
    append,
    packing_builder,
    wire_bytes,
)
from streamer.transport.burial import KEPT_BYTES, buriable
from streamer.transport.topics import LARGEST_DEAD_LETTER_BYTES

BATCH_OVERHEAD_BYTES = 61
OURS = dead_letter_headers(Rejected(Reason.RECORD_TOO_LARGE, "too large"), "events", 1, 2)
records = st.builds(
    Outgoing,
    st.none() | st.binary(max_size=300),
    st.none() | st.binary(max_size=300),
    st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.binary(max_size=200)),
        max_size=8,
    ),
)


@settings(deadline=None)
@given(st.lists(records, min_size=1, max_size=20))
def test_a_batch_is_never_larger_than_estimated(batch: list[Outgoing]) -> None:
    from aiokafka.producer.message_accumulator import BatchBuilder

    builder = BatchBuilder(BATCH_BYTES, 0)
    assert all(append(builder, record, 1_700_000_000_000) for record in batch)
    assert len(builder._build()) <= BATCH_OVERHEAD_BYTES + sum(map(wire_bytes, batch))


def test_what_can_be_packed_is_buried_whole() -> None:
    letter = Outgoing(b"key", b"[" * 20_000_000, OURS)
    assert buriable(letter) is letter
    builder = packing_builder()
    assert append(builder, letter, 0)
    assert len(builder._build()) < LARGEST_DEAD_LETTER_BYTES


def test_what_no_packing_makes_small_enough_is_cut_and_says_so() -> None:
    value = np.random.default_rng(0).bytes(LARGEST_DEAD_LETTER_BYTES + 1)
    cut = buriable(Outgoing(b"key", value, [("original", b"x"), *OURS]))
    assert cut.key == b"key"
    assert cut.value == value[:KEPT_BYTES]
    assert list(cut.headers) == [(CUT_FROM, f"key 3, value {len(value)}, headers 6".encode()), *OURS]
