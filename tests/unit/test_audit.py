from __future__ import annotations

from typing import Any

import msgspec

from streamer.cli.audit import Audit
from streamer.core.protocol import Recommendation, Recommendations, Source
from streamer.core.signals.blend import Blend
from streamer.core.signals.weights import LEARNER_KEY, Published, encode_learner
from streamer.transport.log_reader import LogRecord


def record(key: bytes, value: bytes | None, offset: int = 0) -> LogRecord:
    return LogRecord(partition=0, offset=offset, timestamp_ms=0, key=key, value=value)


def a_list(strategy: Any, weights: str | None = None) -> LogRecord:
    items = [Recommendation("i", 1.0)]
    found = Recommendations("u", 1, 0, 0, "m", strategy, items, Source("events", 0, 0), weights)
    return record(b"u", msgspec.json.encode(found))


def weights() -> Published:
    blend = Blend(16, 0.003, 1)
    return Published.of(blend, None, "m")


def test_lists_that_name_kept_weights_are_in_order() -> None:
    kept, audit = weights(), Audit()
    audit.take_weights(
        [
            record(kept.name.encode(), kept.encode()),
            record(LEARNER_KEY, encode_learner(Blend(16, 0.003, 1), "m")),
        ]
    )
    audit.take_lists([a_list("blend", kept.name), a_list("model"), record(b"gone", None)])
    assert not audit.faults
    assert (audit.lists["blend"], audit.lists["model"], audit.named[kept.name]) == (1, 1, 1)


def test_lost_and_damaged_weights_are_told() -> None:
    kept, audit = weights(), Audit()
    damaged = bytearray(kept.encode())
    damaged[len(damaged) // 2] ^= 1
    audit.take_weights([record(kept.name.encode(), bytes(damaged), 4)])
    audit.take_lists([a_list("blend", kept.name), a_list("blend"), record(b"u", b"{", 9)])
    assert [fault.split(":")[0] for fault in audit.faults] == [
        f"weights {kept.name!r} at 0@4",
        f"list at 0@0 names weights {kept.name!r}, which are not kept",
        "list at 0@0 is blended and names no weights",
        "list at 0@9 cannot be read",
    ]
