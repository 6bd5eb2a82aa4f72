"""Kernels between single and half precision, a vector of numbers at a time: NumPy converts one after the other.

A half is a single whose exponent is smaller by 112: a product with a power of two moves it, also where it is subnormal. Numbers
are finite and below 65,504.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamer.core.compiled import compiled

Rows = NDArray[np.int64]
F32 = NDArray[np.float32]
Bits = NDArray[np.int16]

_UP, _DOWN = np.float32(2.0**112), np.float32(2.0**-112)


@compiled
def widen(halves: Bits, at: Rows, out: F32) -> None:
    """Rows `at` (n,) of halves (K, F, C), as bits, → out (n, F, C)."""
    bits = out.view(np.int32)
    for row in range(len(at)):
        for f in range(out.shape[1]):
            theirs, mine, values = halves[at[row], f], bits[row, f], out[row, f]
            for c in range(len(mine)):
                half = np.int32(theirs[c])
                mine[c] = ((half & np.int32(0x7FFF)) << np.int32(13)) | (half & np.int32(-0x80000000))
            for c in range(len(values)):
                values[c] *= _UP


@compiled
def narrow(values: F32, at: Rows, out: Bits) -> None:
    """values (n, F, C) → rows `at` (n,) of halves (K, F, ≥ C), as bits; rounded to the nearest, ties to the even one."""
    wide = values.shape[2]
    scaled = np.empty(wide, np.float32)
    bits = scaled.view(np.int32)
    for row in range(len(at)):
        for f in range(values.shape[1]):
            theirs, mine = values[row, f], out[at[row], f]
            for c in range(wide):
                scaled[c] = theirs[c] * _DOWN
            for c in range(wide):
                even = np.int32(0xFFF) + ((bits[c] >> np.int32(13)) & np.int32(1))
                size = ((bits[c] & np.int32(0x7FFFFFFF)) + even) >> np.int32(13)
                mine[c] = np.int16(size | ((bits[c] >> np.int32(16)) & np.int32(-0x8000)))
