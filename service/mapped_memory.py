"""Memory that the system may take back: arrays in files without a name, and what the C library keeps without using it.

Pages of such an array are written to the disk when somebody needs their room, and read when they are looked at again; what is
looked at often stays. The file is gone with the last array that lies in it, also after a kill.
"""

import ctypes
import logging
import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LEAST_BYTES = 1 << 20
"""Smaller arrays are not worth a file."""

Array = np.ndarray[Any, np.dtype[Any]]
Room = Callable[[tuple[int, ...], Any], Array]
"""Makes an array of a shape and a dtype whose contents are anything, as `numpy.empty` does."""

log = logging.getLogger(__name__)


def mapped_in(folder: Path, least_bytes: int = LEAST_BYTES) -> Room:
    """Return what makes arrays in files of a folder, and in plain memory small ones, and all where the disk has no room."""

    def make(shape: tuple[int, ...], dtype: Any) -> Array:
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if size >= max(1, least_bytes):
            try:
                with tempfile.TemporaryFile(dir=folder) as file:
                    # Without blocks of its own, a page that finds the disk full would end the process.
                    os.posix_fallocate(file.fileno(), 0, size)
                    return np.frombuffer(mmap.mmap(file.fileno(), size), dtype).reshape(shape)
            except OSError as error:
                log.warning("%d bytes of vectors stay in memory: %s", size, error)
        return np.empty(shape, dtype)

    return make


def give_back() -> None:
    """Return to the system what the C library holds for later use, where it can (glibc); a few milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
