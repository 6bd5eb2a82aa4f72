"""Loops over users and events that NumPy has no operation for, compiled to machine code on their first call by Numba.

    @compiled
    def sums(values, starts, out): ...

A compiled function (a *kernel*) takes C-contiguous arrays and numbers, fills arrays that it is given, does not hold the
interpreter's lock, and calls nothing but kernels of its own module: the cache on disk is renewed when that file changes, not
when others do. A module of kernels has a `warm_up()` which calls each with tiny arrays of the types that it is used with, so that
a worker compiles before it takes a partition and not in its first batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
N = TypeVar("N", bound=np.generic)


def compiled(function: F) -> F:
    """Machine code is kept on disk beside the source or in the user's cache; where neither can be written, in memory."""
    try:
        return _jit(function, cache=True)
    except RuntimeError:  # Numba: "no locator available"
        return _jit(function, cache=False)


def compiled_sum(function: F) -> F:
    """As `compiled`, but in which order a sum is made is the compiler's choice, so that it adds several numbers at a time.

    It is the same order for as many numbers on the same processor: for sums over what a batch does not cut, as dimensions.
    """
    try:
        return _jit(function, cache=True, fastmath={"reassoc", "contract", "nsz"})
    except RuntimeError:
        return _jit(function, cache=False, fastmath={"reassoc", "contract", "nsz"})


def was_compiled(kernel: Any) -> bool:
    """Whether a kernel that was called had to be compiled for that, and its machine code is now kept on disk."""
    return kernel.stats.cache_path is not None and bool(kernel.stats.cache_misses)


def fixed(array: NDArray[N]) -> NDArray[N]:
    """A view that cannot be written, in C's order: whether an array can be is part of a kernel's types."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def _jit(function: F, **options: Any) -> F:
    kernel: F = numba.njit(function, nogil=True, error_model="numpy", **options)
    return kernel
