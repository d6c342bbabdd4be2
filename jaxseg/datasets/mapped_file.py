"""A file of known size that all processes of a machine map into memory."""

import mmap
import os
import weakref
from pathlib import Path

import numpy as np


class MappedFile:
    """The bytes of a file, read only; open until nobody holds it.

    Raises:
        OSError: the file is missing or of another size, at any use: memory mapped beyond the end
            would kill the process.
    """

    def __init__(self, path: Path, size: int):
        self._name, self._size = path.name, size
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self._check_size()
        self._bytes = np.frombuffer(mmap.mmap(self._file, 0, prot=mmap.PROT_READ), np.uint8)

    def bytes(self) -> np.ndarray:
        """Return a view of all bytes, uint8; it takes a microsecond."""
        self._check_size()
        return self._bytes

    def _check_size(self):
        if os.fstat(self._file).st_size != self._size:
            raise OSError(f"{self._name} is cut off")
