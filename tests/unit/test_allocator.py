"""What is free goes back to the system, and threads share a heap; both only with glibc."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.allocator import give_back

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_info"), reason="another allocator than glibc's"
)

PIECES, PIECE = 40_000, 1_000


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_what_is_free_below_something_that_is_used_goes_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    pieces = [libc.malloc(PIECE) for _ in range(PIECES)]
    for piece in pieces:
        ctypes.memset(piece, 1, PIECE)
    for piece in pieces[:-1]:
        libc.free(piece)
    before = resident()
    give_back()
    assert before - resident() > PIECES * PIECE / 2
    libc.free(pieces[-1])


ARENAS = """
import ctypes, sys, threading
from streamer.allocator import share_heaps
if int(sys.argv[1]):
    share_heaps(int(sys.argv[1]))
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
together = threading.Barrier(5)
def use():
    libc.malloc(5_000)
    together.wait()
threads = [threading.Thread(target=use) for _ in range(4)]
[each.start() for each in threads]
together.wait()
[each.join() for each in threads]
libc.fopen.restype, libc.fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
out = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, out)
libc.fclose(out)
"""


def heaps(at_most: int) -> int:
    """Of a process with four threads that all have memory; 0: without a limit."""
    command = [sys.executable, "-c", ARENAS, str(at_most)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.count("<heap ")


def test_threads_share_a_heap() -> None:
    assert heaps(1) == 1
    assert heaps(0) > 1
