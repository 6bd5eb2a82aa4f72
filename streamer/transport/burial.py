"""Dead letters that are larger than their topic takes.

The broker's limits hold for batches as they lie in the log, compressed: a record of a kilobyte can unpack to megabytes.
Its letter is packed too, and where even that does not help it is cut and says so.
"""

from __future__ import annotations

from aiokafka.producer.message_accumulator import BatchBuilder

from streamer.core.dead_letters import CUT_FROM, PREFIX
from streamer.transport.batch_producer import BATCH_BYTES, Outgoing, append, packing_builder, wire_bytes
from streamer.transport.topics import LARGEST_DEAD_LETTER_BYTES

KEPT_BYTES = 64 * 1024
"""Of key and value of a letter that is cut."""


def buriable(letter: Outgoing) -> Outgoing:
    """The letter itself, or as much of it as the topic takes (compresses what is large: not cheap)."""
    if wire_bytes(letter) <= BATCH_BYTES:
        return letter
    builder: BatchBuilder = packing_builder()
    append(builder, letter, 0)
    if len(builder._build()) <= LARGEST_DEAD_LETTER_BYTES:
        return letter
    sizes = f"key {len(letter.key or b'')}, value {len(letter.value or b'')}, headers {len(letter.headers)}"
    ours = [(name, value) for name, value in letter.headers[-5:] if name.startswith(PREFIX)]
    return Outgoing(
        letter.key and letter.key[:KEPT_BYTES],
        letter.value and letter.value[:KEPT_BYTES],
        [(CUT_FROM, sizes.encode()), *ours],
    )
