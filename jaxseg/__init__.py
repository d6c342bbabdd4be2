"""Brain-tumour segmentation on MRI with a U-Net in JAX.

The programs are `python -m jaxseg.train` (or `jaxseg train`), `evaluate`, `predict`, `export`,
`view`, `doctor` and `compare`. For notebooks and other programs, all imported when they are first
used:

    jaxseg.read_scan(path)              a scan of any format that predict reads
    jaxseg.prepare_data(source)         a data set, checked and ready to be read
    jaxseg.load_run(workdir)            a trained run; `.predict(volume)` gives probability and mask
    jaxseg.score_masks(mask, truth)     all measures of the scorecard
    jaxseg.draw_contours(image, ...)    a picture of masks on the slices of a scan

Importing jaxseg imports neither jax nor any other library and changes nothing in the process;
`load_run` sets it up to compute (see `jaxseg.machine.start`). Without jaxlib the others work.
"""

import signal
import sys
from typing import Any

if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    # `python -m jaxseg...`, whose imports take seconds: until the program handles it
    # (config.command_line.run), Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

__version__ = "0.1.0"
RESEARCH_ONLY = (
    "For research use only. Not a medical device; do not base a diagnosis or a treatment on its "
    "output."
)
_API = ("draw_contours", "load_run", "prepare_data", "read_scan", "score_masks")


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module 'jaxseg' has no attribute {name!r}")
    from jaxseg import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return [*globals(), *_API]
