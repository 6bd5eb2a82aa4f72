"""What a rejected record becomes: its original key and bytes, and headers that say why and whence."""

from __future__ import annotations

from collections.abc import Iterable

from streamer.core.rejections import Rejected

PREFIX = "headwater-"
REASON = f"{PREFIX}reason"
DETAIL = f"{PREFIX}detail"
SOURCE_TOPIC = f"{PREFIX}source-topic"
SOURCE_PARTITION = f"{PREFIX}source-partition"
SOURCE_OFFSET = f"{PREFIX}source-offset"
CUT_FROM = f"{PREFIX}cut-from"
"""Only on a letter that its topic could not take whole: what the record's sizes were."""


def dead_letter_headers(
    rejected: Rejected,
    topic: str,
    partition: int,
    offset: int,
    original: Iterable[tuple[str, bytes | None]] = (),
) -> list[tuple[str, bytes]]:
    """Headers of the dead letter: those of the record first, in order, then ours.

    Of two equal names the last is ours.
    A header without a value (None, legal in Kafka) is kept as an empty one.
    """
    return [
        *((name, value or b"") for name, value in original),
        (REASON, rejected.reason.encode()),
        (DETAIL, rejected.detail.encode("utf-8", "backslashreplace")),
        (SOURCE_TOPIC, topic.encode()),
        (SOURCE_PARTITION, b"%d" % partition),
        (SOURCE_OFFSET, b"%d" % offset),
    ]
