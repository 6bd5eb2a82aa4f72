"""Texts of JSON that are encoded once and looked up by number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)
Ints = NDArray[np.int64]
Table: TypeAlias = tuple[NDArray[np.uint8], Ints]
"""Texts one after the other, and where each begins and the last one ends; as kernels take them."""

SLACK = 16
"""Bytes behind the last text, and behind what is written: texts are copied by so many at a time."""
AT_ONCE = 256
"""Records in a buffer, which then stays in the processor's cache until they are cut apart."""

_json = msgspec.json.Encoder().encode
_CONTROL = bytes({*range(32), 127} - {ord("\n")})


class Texts:
    """A list of texts that may grow."""

    def __init__(self, texts: Iterable[bytes] = ()) -> None:
        self.longest = 0
        """Bytes."""
        self._n, self._end = 0, 0
        self._text, self._starts = np.zeros(SLACK, np.uint8), np.zeros(1, np.int64)
        self.add(list(texts))

    def __len__(self) -> int:
        return self._n

    @property
    def table(self) -> Table:
        return self._text, self._starts

    def add(self, texts: Sequence[bytes]) -> None:
        joined, lengths = b"".join(texts), np.fromiter(map(len, texts), np.int64, len(texts))
        self._text = _roomy(self._text, self._end + len(joined) + SLACK)
        self._starts = _roomy(self._starts, self._n + len(texts) + 1)
        self._text[self._end : self._end + len(joined)] = np.frombuffer(joined, np.uint8)
        self._starts[self._n + 1 : self._n + 1 + len(texts)] = self._end + np.cumsum(lengths)
        self._n, self._end = self._n + len(texts), self._end + len(joined)
        self.longest = max(self.longest, int(lengths.max(initial=0)))


class Phrases:
    """Texts of N numbered things, encoded when first asked for: of a large catalogue only what is recommended."""

    def __init__(self, n: int, encode: Callable[[int], bytes]) -> None:
        self._encode = encode
        self._place = np.full(n + 1, -1, np.int64)
        self._place[n] = 0  # of number -1: no text
        self.texts = Texts([b""])

    def __call__(self, numbers: Ints) -> Ints:
        """Where the texts of numbers (…) are among `texts`; -1 is no text."""
        places = self._place[np.ascontiguousarray(numbers)]
        if places.size and int(places.min()) < 0:
            new = np.unique(numbers[places < 0])
            self._place[new] = np.arange(len(self.texts), len(self.texts) + len(new))
            self.texts.add(list(map(self._encode, new.tolist())))
            places = self._place[numbers]
        return places


def quoted(names: Sequence[bytes]) -> Texts:
    """JSON strings of UTF-8 names."""
    joined = b"\n".join(names)
    # One look at all of them tells for nearly every batch that nothing has to be escaped.
    plain = (
        joined.count(b"\n") == len(names) - 1
        and b'"' not in joined
        and b"\\" not in joined
        and len(joined.translate(None, _CONTROL)) == len(joined)
    )
    return Texts([b'"%b"' % name for name in names] if plain else [_json(name.decode()) for name in names])


def written(n: int, longest: int, write: Callable[[NDArray[np.uint8], Ints, int], None]) -> list[bytes]:
    """n texts of at most `longest` bytes; `write` writes some into a buffer, one after the other, and says where each ends.

    Its arguments: the buffer, the ends to fill (m,), the number of the first of these m texts.
    """
    texts: list[bytes] = []
    out = np.empty(min(n, AT_ONCE) * longest + SLACK, np.uint8)
    for first in range(0, n, AT_ONCE):
        ends = np.empty(min(n - first, AT_ONCE), np.int64)
        write(out, ends, first)
        bounds = ends.tolist()
        data = out[: bounds[-1]].tobytes()
        texts += [data[start:end] for start, end in zip([0, *bounds], bounds, strict=False)]
    return texts


def _roomy(array: NDArray[T], size: int) -> NDArray[T]:
    """The same with room for `size` elements."""
    if size <= len(array):
        return array
    wider = np.zeros(max(size, 2 * len(array)), array.dtype)
    wider[: len(array)] = array
    return wider
