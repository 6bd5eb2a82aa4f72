"""What the records of `profiles` and `recommendations` have in common: whose they are, how new, and out of which event.

Axis: n records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamer.core.json_rows import Column, Texts, quoted, whole

Part = bytes | Column


@dataclass(frozen=True, slots=True)
class Stamp:
    """The first and the last fields of n records, as parts of `json_rows.write`."""

    n: int
    first: list[Part]
    """`{` and user_id to model_version; a comma is to follow."""
    last: list[Part]
    """source and `}`, after a comma."""

    @classmethod
    def of(
        cls,
        heads: NDArray[np.void],
        users: Sequence[bytes],
        model_version: str,
        topics: Sequence[str],
        topic: NDArray[np.int64],
        partition: NDArray[np.int64],
    ) -> Stamp:
        """heads (n,): the users' state heads; users: their ids in UTF-8; topic (n,): which of `topics` their events came on,
        in which partition (n,).
        """
        first: list[Part] = [
            b'{"user_id":',
            quoted(users),
            b',"version":',
            whole(heads["version"]),
            b',"revision":',
            whole(heads["revision"].astype(np.int64)),
            b',"as_of_ms":',
            whole(heads["watermark"]),
            b',"model_version":' + msgspec.json.encode(model_version),
        ]
        last: list[Part] = [
            b',"source":{"topic":',
            Texts([msgspec.json.encode(name) for name in topics])(topic),
            b',"partition":',
            whole(partition),
            b',"offset":',
            whole(heads["applied"]),
            b"}}",
        ]
        return cls(len(users), first, last)
