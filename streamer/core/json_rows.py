"""JSON texts of many records at a time, written column by column instead of record by record.

A record is a row of a byte matrix. A column is as wide as its widest text, shorter ones are padded with NUL, which no JSON
text holds; at the end the NULs are squeezed out. So what is constant is copied into all records at once, ids and labels
come ready encoded out of a table, and digits are looked up by the four.

Axes: n records, w bytes of a column. A *column* is an array (n, w) or, for lists inside a record, (n, k, w) of bytes (u8);
a text of no bytes is one that is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.uint8]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_json = msgspec.json.Encoder().encode
_CONTROL = bytes({*range(32), 127} - {ord("\n")})


class Texts:
    """A fixed list of texts, to be looked up by number."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        table = np.array([*texts, b""], "S")
        self.width = table.itemsize
        self._table = table.view(f"V{self.width}")

    def __call__(self, numbers: Ints) -> Column:
        """Column (…, w) of texts by number (…); -1 is no text."""
        return self._table.take(numbers).view(np.uint8).reshape(*numbers.shape, self.width)


class Phrases:
    """Texts of N numbered things, encoded when first asked for: of a large catalogue only what is recommended."""

    def __init__(self, n: int, encode: Callable[[int], bytes]) -> None:
        self._encode = encode
        self._place = np.full(n + 1, -1, np.int64)
        self._place[n] = 0  # of number -1: no text
        self._texts: list[bytes] = [b""]
        self._table = Texts(self._texts)

    def __call__(self, numbers: Ints) -> Column:
        """Column (…, w) of texts by number (…); -1 is no text."""
        places = self._place[numbers]
        if places.size and int(places.min()) < 0:
            new = np.unique(numbers[places < 0])
            self._place[new] = np.arange(len(self._texts), len(self._texts) + len(new))
            self._texts += map(self._encode, new.tolist())
            self._table = Texts(self._texts)
            places = self._place[numbers]
        return self._table(places)


# ---------------------------------------------------------------------- numbers
_GROUP = 10_000
_DIGITS = Texts([b"%04d" % i for i in range(_GROUP)] + [b"%d" % i for i in range(_GROUP)])
"""Four digits with the zeros before them, then without, then none at all (-1)."""
_MILLE = Texts([b"%03d" % i for i in range(1000)])
_MICRO = 1_000_000
_LARGEST = 9e12


def whole(values: Ints) -> Column:
    """The digits of integers (…) of any sign."""
    if values.size and int(values.min()) < 0:
        return np.concatenate([_minus(values < 0), whole(np.abs(values))], axis=-1)
    groups: list[Column] = []
    while True:
        higher = values // _GROUP
        group = values - higher * _GROUP
        bare = group + _GROUP
        if groups:
            bare[values == 0] = -1
        groups.append(_DIGITS(np.where(higher > 0, group, bare)))
        if not higher.any():
            return np.concatenate(groups[::-1], axis=-1)
        values = higher


def decimal(values: NDArray[np.floating]) -> Column:
    """Numbers (…) to six decimals; what is not finite, or beyond 9e12, becomes 0 or ±9e12."""
    safe = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=_LARGEST, neginf=-_LARGEST)
    scaled = np.rint(np.clip(safe, -_LARGEST, _LARGEST) * _MICRO).astype(np.int64)
    magnitude = np.abs(scaled)
    front = magnitude // _MICRO
    millionths = magnitude - front * _MICRO
    thousandths = millionths // 1000
    point = np.full((*values.shape, 1), ord("."), np.uint8)
    parts = [whole(front), point, _MILLE(thousandths), _MILLE(millionths - 1000 * thousandths)]
    if (scaled < 0).any():
        parts.insert(0, _minus(scaled < 0))
    return np.concatenate(parts, axis=-1)


def _minus(negative: Flags) -> Column:
    return np.where(negative, np.uint8(ord("-")), np.uint8(0))[..., None]


# ---------------------------------------------------------------------- strings and lists
def quoted(names: Sequence[bytes]) -> Column:
    """JSON strings (n, w) of UTF-8 names."""
    joined = b"\n".join(names)
    # One look at all of them tells for nearly every batch that nothing has to be escaped.
    plain = (
        joined.count(b"\n") == len(names) - 1
        and b'"' not in joined
        and b"\\" not in joined
        and len(joined.translate(None, _CONTROL)) == len(joined)
    )
    texts = [b'"%b"' % name for name in names] if plain else [_json(name.decode()) for name in names]
    return Texts(texts)(np.arange(len(texts)))


def commas(present: Flags) -> Column:
    """(n, k, 1): a comma before each element of a list but its first; elements that are not `present` (n, k) have none."""
    later = present & (np.cumsum(present, axis=1) > 1)
    return np.where(later, np.uint8(ord(",")), np.uint8(0))[..., None]


def where(present: Flags, text: bytes) -> Column:
    """(…, w): the text where `present` (…)."""
    return np.where(present[..., None], np.frombuffer(text, np.uint8), np.uint8(0))


def write(n: int, parts: Sequence[bytes | Column]) -> list[bytes]:
    """The n records: in each the parts one after the other, constants as bytes, columns (n, w) or (n, k, w)."""
    flat = [part if isinstance(part, bytes) else part.reshape(n, math.prod(part.shape[1:])) for part in parts]
    width = sum(len(part) if isinstance(part, bytes) else part.shape[1] for part in flat)
    matrix = np.empty((n, width), np.uint8)
    at = 0
    for part in flat:
        if isinstance(part, bytes):
            end = at + len(part)
            matrix[:, at:end] = np.frombuffer(part, np.uint8)
        else:
            end = at + part.shape[1]
            matrix[:, at:end] = part
        at = end
    data = matrix.data.cast("B") if n and width else b""
    return [bytes(data[start : start + width]).translate(None, b"\0") for start in range(0, n * width, width)]


def elements(*columns: Column) -> Column:
    """(n, k, w): the columns (n, k, w_i) of a list's elements, one after the other."""
    return np.concatenate(columns, axis=-1)
