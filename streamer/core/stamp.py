"""What the records of `profiles` and `recommendations` have in common: whose they are, how new, and out of which event.

Axis: n records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamer.core.json_texts import Texts, quoted

_BYTES = 320
"""The constants and numbers of a stamp, at most."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """The first and the last fields of n records: `{` and user_id to model_version, and source with `}`."""

    n: int
    arrays: tuple[Any, ...]
    """As the kernels take them."""
    longest: int
    """Bytes of each, at most."""

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
        names, model = quoted(users), Texts([msgspec.json.encode(model_version)])
        sources = Texts([msgspec.json.encode(name) for name in topics])
        version, revision, watermark, offset = (
            heads[name].astype(np.int64) for name in ("version", "revision", "watermark", "applied")
        )
        return cls(
            len(users),
            (
                names.table,
                version,
                revision,
                watermark,
                np.ascontiguousarray(topic, np.int64),
                np.ascontiguousarray(partition, np.int64),
                offset,
                model.table,
                sources.table,
            ),
            _BYTES + names.longest + model.longest + sources.longest,
        )
