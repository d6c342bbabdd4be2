"""TFDS builders that turn volumes into records, without TensorFlow.

All patients are in one TFDS split, `scans`, patient by patient and slice by slice. Which of
them are train, validation and test is decided by `splits.py` when they are read.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from jaxseg.imaging.volumes import slice_records
from jaxseg.scans.volume import Volume

VERSION = "1.0.0"
_SPLIT = "scans"


class Scans(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Records of the volumes it is given."""

    VERSION = tfds.core.Version(VERSION)
    # TFDS looks for files of checksums beside the code, with a package (importlib_resources)
    # that it does not require; there are no such files.
    code_path = None

    def __init__(self, data_dir: Path, about: str, volumes: Iterator[Volume], like: Volume):
        self._about, self._volumes, self._like = about, volumes, like
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        # Not ZLIB: array_record compresses by itself, to the same size and faster.
        raw = tfds.features.Encoding.BYTES
        channels = self._like.image.shape[-1]

        def pixels(like: np.ndarray) -> tfds.features.Tensor:
            shape = (None, None, like.shape[-1])
            return tfds.features.Tensor(shape=shape, dtype=like.dtype, encoding=raw)

        return tfds.core.DatasetInfo(
            builder=self,
            description=self._about,
            features=tfds.features.FeaturesDict(
                {
                    "image": pixels(self._like.image),
                    "mask": pixels(self._like.mask),
                    "patient": tfds.features.Text(),
                    "slice": np.int32,
                    "stats": tfds.features.Tensor(shape=(channels, 4), dtype=np.float32),
                    "head_box": tfds.features.Tensor(shape=(4,), dtype=np.int32),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        return {_SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        index = 0
        for volume in self._volumes:
            for number, record in zip(volume.slice_numbers, slice_records(volume), strict=True):
                yield index, record | {"patient": volume.patient, "slice": number}
                index += 1


def build(builder: Scans) -> Path:
    """Write the records and return the folder that holds them."""
    with _quiet():
        builder.download_and_prepare()
    return Path(builder.data_path)


def open_source(path: Path):
    """Return the random-access source of the records under path; it can be pickled."""
    with _quiet():
        return tfds.builder_from_directory(path).as_data_source(split=_SPLIT)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep TFDS from printing and logging: the caller shows the progress."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
