"""Look at scans and predictions: python -m jaxseg.view --workdir DIR [INPUT...].

Serves a page to this machine only and opens it in the browser: the patients with their scores,
slice by slice, all regions of truth and prediction as contours or areas, the map of
probabilities; volumes of known voxel size in three planes. For review: zoom, ruler, all sequences
side by side, another threshold tried and scored, lesion by lesion, the picture saved without the
patient's name. The key ? lists what the keys do. Ctrl-C ends.

Without INPUT, the patients of the training data, predicted when they are chosen:

  --workdir DIR      folder of the training run (required)
  --split NAME       train, validation, test (default) or all
  --source PATH      another folder or zip of the same layout: all its patients

With INPUT, scans that python -m jaxseg.predict has predicted, and what it wrote:

  INPUT...           as given to predict; --channels LIST and --fill CHANNEL are read from what
                     predict wrote where they are not given
  --predictions DIR  the folder that predict wrote; default WORKDIR/predictions
  --truth PATH       masks that people drew, as given to evaluate --truth, which scores them

  --port N           default: any that is free
  --no-browser       only print the address
  --niivue FILE      your copy of NiiVue, for 3D rendering: npm pack @niivue/niivue brings it as
                     package/dist/niivue.umd.js

The address holds a secret: who has it, and an account on this machine, sees the scans. On
another machine than yours, choose a port and forward it: ssh -L N:127.0.0.1:N MACHINE.

Exit code 2 with one line on what to mend; Ctrl-C ends with 130.
"""

import os
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxseg.config import command_line
from jaxseg.errors import UserError
from jaxseg.machine.start import start_computing
from jaxseg.viewer.of_predictions import open_predictions
from jaxseg.viewer.of_run import open_run
from jaxseg.viewer.pictures import Gallery
from jaxseg.viewer.serve import address, make_server


def main(argv: Sequence[str]):
    """Run the program; see the top of the file."""
    options, rest = command_line.parse(
        argv,
        __doc__,
        text=("workdir", "source", "niivue", "predictions", "channels", "fill", "truth"),
        switch=("no-browser",),
        split=("train", "validation", "test", "all"),
        port=0,
    )
    if options.port > 65535:
        raise UserError(f"--port {options.port}: must lie in 0..65535")
    niivue = niivue_copy(options.niivue)
    gallery = open_gallery([Path(path).expanduser() for path in rest], options)
    with make_server(gallery, options.port, niivue) as server:
        count = len(gallery.rows)
        print(f"{count} patient{'s' * (count != 1)} at {address(server)}", flush=True)
        print("Ctrl-C ends", flush=True)
        if not options.no_browser and _has_screen():
            webbrowser.open(address(server))
        server.serve_forever()


def open_gallery(inputs: Sequence[Path], options: Any) -> Gallery:
    """Return what the flags and arguments ask for; UserError when they contradict each other."""
    if options.workdir is None:
        raise UserError("what shall be shown? Give --workdir DIR (see --help)")
    run = Path(options.workdir).expanduser()
    of_run = options.split is not None or options.source is not None
    of_inputs = any((options.predictions, options.channels, options.fill, options.truth))
    if inputs and of_run:
        raise UserError("--split and --source are for the training data; leave out the INPUT")
    if of_inputs and not inputs:
        raise UserError("which scans? Give the INPUT of predict too (see --help)")
    if options.source is not None and options.split is not None:
        raise UserError("--source takes all its patients; leave --split out")
    start_computing()
    if not inputs:
        return open_run(run, options.split or "test", options.source)
    folder = Path(options.predictions or run / "predictions").expanduser()
    truth = Path(options.truth).expanduser() if options.truth else None
    return open_predictions(run, inputs, folder, options.channels, options.fill, truth)


def niivue_copy(path: str | None) -> Path | None:
    """Return the path of the user's NiiVue; UserError when it is no script."""
    niivue = Path(path).expanduser() if path else None
    if niivue and not (niivue.suffix == ".js" and niivue.is_file()):
        raise UserError(f"--niivue {niivue}: no such script; see --help for where it comes from")
    return niivue


def _has_screen() -> bool:
    """Return whether a window can open; else webbrowser would start one in this terminal."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform in ("darwin", "win32") or any(os.environ.get(s) for s in screens)


if __name__ == "__main__":
    command_line.run(main)
