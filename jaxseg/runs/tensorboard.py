"""Scalars and pictures for TensorBoard, where the extra `[tensorboard]` is installed."""

import contextlib
import importlib.util
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class TensorBoard:
    """Writes to folder with tensorboardX; does nothing when that is not installed.

    Without its SummaryWriter: on a full disk its thread dies, and soon the caller waits for ever.
    Here a file that cannot be written ends the pictures and curves, not the training.
    """

    def __init__(self, folder: Path, first_step: int):
        self.active = importlib.util.find_spec("tensorboardX") is not None
        self._file = None
        if self.active:
            name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
            with self._writing():
                folder.mkdir(parents=True, exist_ok=True)
                self._file = (folder / name).open("wb")
                self._write(0, file_version="brain.Event:2")
                # Of earlier starts TensorBoard then shows nothing beyond first_step.
                self._write(first_step + 1, session_log={"status": "START"})

    def scalars(self, step: int, values: Mapping[str, float]):
        """Write each value under its name."""
        if self.active:
            from tensorboardX import summary

            with self._writing():
                for name, value in values.items():
                    self._write(step, summary=summary.scalar(name, value))

    def images(self, step: int, pictures: Sequence[np.ndarray]):
        """Write pictures, [H, W, 3] uint8 each."""
        if self.active:
            from tensorboardX import summary

            with self._writing():
                for i, picture in enumerate(pictures):
                    image = summary.image(f"validation/{i}", picture, dataformats="HWC")
                    self._write(step, summary=image)

    def close(self):
        """Finish writing."""
        if self.active:
            with self._writing():
                self._file.close()

    def _write(self, step: int, **content: Any):
        from tensorboardX.proto.event_pb2 import Event  # slow to import and optional
        from tensorboardX.record_writer import masked_crc32c

        event = Event(wall_time=time.time(), step=step, **content).SerializeToString()
        length = struct.pack("<Q", len(event))
        for part in (length, event):
            self._file.write(part + struct.pack("<I", masked_crc32c(part)))
        self._file.flush()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.active = False
            with contextlib.suppress(OSError):
                if self._file:
                    self._file.close()
            with contextlib.suppress(OSError):  # the log may lie on the same full disk
                print(f"warning: TensorBoard is off from here: {error.strerror}", file=sys.stderr)
