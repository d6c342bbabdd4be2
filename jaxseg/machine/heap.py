"""Holes that nobody fits into are given back, where freed memory is kept (see `cpu`).

XLA asks for the same aligned gigabyte in every step. glibc cuts crumbs of at most 112 bytes off its
ends, and now and then keeps one in a thread's cache: the next gigabyte does not fit between them
and is taken elsewhere, while the old one stays with the process, more than once in a run. What
compiling a program took, some 200 MB, is of no more use either.
"""

import ctypes
import functools
import resource
import threading
import time
from pathlib import Path
from typing import Any

import jax

from jaxseg.machine.announce import COMPILATION

_TICK_SECONDS = 0.1  # of a step of 1.7 s that touches 0.7 GB
_GROWN_BYTES = 2**25
_IN_USE = 0.9  # of the most that was in use: a step is under way


class _MallInfo(ctypes.Structure):
    """glibc's struct mallinfo2: ten sizes, of which the eighth are the bytes in use."""

    _fields_ = (("before", ctypes.c_size_t * 7), ("used", ctypes.c_size_t))
    _fields_ += (("after", ctypes.c_size_t * 2),)


@functools.cache
def give_back_holes():
    """Watch this process from now on, in a thread that does not outlive it; once is enough.

    What is free is given back whenever a program has been compiled, too.

    Raises:
        AttributeError: glibc before 2.33, or another C library.
        OSError: the system does not say how much memory is resident.
    """
    library = ctypes.CDLL("libc.so.6")
    library.mallinfo2.restype = _MallInfo
    arguments = library, _resident_bytes()
    threading.Thread(target=_watch, args=arguments, name="heap", daemon=True).start()

    def compiled(event: str, _: float, **__: Any):
        if event == COMPILATION:
            library.malloc_trim(0)

    jax.monitoring.register_event_duration_secs_listener(compiled)


def _resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def _watch(library: ctypes.CDLL, most: int):
    """Whenever more is resident than ever and a step is under way, give back what is free.

    Between steps the gigabyte itself is free, and is to be kept. The bound rises where a step needs
    more than those before it, not where it only left a hole behind.
    """
    most_used = 0
    while True:
        time.sleep(_TICK_SECONDS)
        resident = _resident_bytes()
        if resident < most + _GROWN_BYTES:
            continue
        used = library.mallinfo2().used
        if used >= _IN_USE * most_used:
            library.malloc_trim(0)
        most, most_used = max(most, _resident_bytes()), max(most_used, used)
