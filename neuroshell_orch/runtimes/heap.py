"""How the allocator behaves while a model is loaded.

Owns the thresholds of glibc's malloc for that time. onnxruntime lays out one weight after the other for its kernels,
each in a buffer that it frees again where a prepared copy has the result; by the environment's rule (see
``workers.environment``) each would get new pages of the kernel, which is a quarter of the load. Meanwhile they stay in
the heap instead, and are used again; what is left goes back at the end. Must not know a runtime.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_USUAL: Final = 128 << 10
_OURS: Final = f"glibc.malloc.mmap_threshold={_USUAL}"
_LOADING: Final = {_TRIM_THRESHOLD: 32 << 20, _TOP_PAD: 4 << 20, _MMAP_THRESHOLD: 8 << 20}
_TOUCH: Final = 96 << 10
"""Freeing so much makes the allocator look whether the end of this thread's heap can go back."""


@contextmanager
def loading() -> Iterator[None]:
    """In the thread that loads. Where somebody set other thresholds, theirs hold."""
    if _OURS not in os.environ.get("GLIBC_TUNABLES", "").split(":"):
        yield
        return
    libc = ctypes.CDLL(None)
    libc.malloc.argtypes, libc.malloc.restype = (ctypes.c_size_t,), ctypes.c_void_p
    libc.free.argtypes, libc.free.restype = (ctypes.c_void_p,), None
    for name, size in _LOADING.items():
        libc.mallopt(name, size)
    try:
        yield
    finally:
        for name in _LOADING:
            libc.mallopt(name, _USUAL)
        libc.free(libc.malloc(_TOUCH))
