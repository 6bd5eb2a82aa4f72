"""Seen chunks: what a user consumed before the behaviour window, so that it stays excluded."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from streamer.core.runs import Rows
from streamer.core.state_records import CHUNK_HASHES, CHUNK_RING, chunk_key, decode_chunks, encode_chunk

_CHUNK_BYTES = 8 * CHUNK_HASHES
_COUNT_LIMIT = 1 << 16


def stored_chunks(counts: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """How many chunks are stored of each user of the heads' `counts` (U,)."""
    return np.minimum(counts, CHUNK_RING)


class SeenChunks:
    """Chunks of the batch's users (by row); `counts` (U,) u2 is the field of the heads, changed in place.

    A user has at most 64 chunks of 128 hashes, all distinct; the 8,193rd makes the oldest chunk go. Few users of a batch
    have any, so they are kept as packed bytes by user.
    """

    def __init__(
        self, counts: NDArray[np.uint16], keys: Sequence[bytes], values: Sequence[bytes | None]
    ) -> None:
        """values: the chunks stored of each user, as many as `stored_chunks` says, by index."""
        self._counts, self._keys = counts, keys
        self._chunks: dict[int, list[bytes]] = {}
        self._dirty: dict[int, dict[int, int]] = {}
        chunks = iter(decode_chunks(values))
        rows = np.flatnonzero(counts)
        for row, n in zip(rows.tolist(), stored_chunks(counts[rows]).tolist(), strict=True):
            self._chunks[row] = list(itertools.islice(chunks, n))

    def add(self, row: int, hashes: Iterable[int], offset: int) -> None:
        """Remember the user's consumed items (in order), which left the window by the event at source offset `offset`."""
        distinct = np.fromiter(dict.fromkeys(hashes), np.uint64)
        chunks = self._chunks.setdefault(row, [])
        known = np.frombuffer(b"".join(chunks), "<u8")
        new = distinct[~(distinct[:, None] == known).any(axis=1)].astype("<u8").tobytes()
        while new:
            count = int(self._counts[row])
            last = (count - 1) % CHUNK_RING
            if count == 0 or len(chunks[last]) == _CHUNK_BYTES:
                last = count % CHUNK_RING
                chunks[last : last + 1] = [b""]
                # The count stands still modulo the ring when its 16 bits are used up.
                self._counts[row] = count + 1 if count + 1 < _COUNT_LIMIT else CHUNK_RING
            room = _CHUNK_BYTES - len(chunks[last])
            chunks[last] += new[:room]
            new = new[room:]
            self._dirty.setdefault(row, {})[last] = offset

    def items(self, users: Rows) -> tuple[Rows, NDArray[np.uint64]]:
        """Positions in `users` (m,) and item hashes (m,) of everything in their chunks."""
        if not self._chunks:
            return np.zeros(0, np.int64), np.zeros(0, np.uint64)
        packed = [b"".join(self._chunks.get(row, ())) for row in users.tolist()]
        lengths = np.fromiter(map(len, packed), np.int64, len(packed))
        hashes = np.frombuffer(b"".join(packed), "<u8").astype(np.uint64)
        return np.repeat(np.arange(len(packed)), lengths // 8), hashes

    def take_changes(self) -> dict[int, list[tuple[bytes, bytes]]]:
        """By user, (key, value) of the chunks that changed since the last call."""
        dirty, self._dirty = self._dirty, {}
        return {
            row: [
                (chunk_key(self._keys[row], index), encode_chunk(self._chunks[row][index], offset))
                for index, offset in sorted(changed.items())
            ]
            for row, changed in dirty.items()
        }
