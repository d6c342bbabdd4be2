"""Look at scans and predictions: python -m jaxseg.view --workdir DIR [--split test].

Serves a page to this machine only and opens it in the browser: the patients with their scores,
slice by slice, truth and prediction as contours or areas, the map of probabilities; volumes
of known voxel size in three planes. The key ? lists what the keys do. Ctrl-C ends.

  --workdir DIR    folder of the training run
  --split NAME     train, validation, test (default) or all
  --source PATH    another folder or zip of the same layout: all its patients
  --port N         default: any that is free
  --no-browser     only print the address
  --niivue FILE    your copy of NiiVue, for 3D rendering: npm pack @niivue/niivue brings it as
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

from absl import flags

from jaxseg import cli
from jaxseg.compile_cache import keep_compiled_programs
from jaxseg.errors import UserError
from jaxseg.view_run import open_run
from jaxseg.view_server import address, make_server


def main(argv: Sequence[str]):
    """Run the program; see the top of the file."""
    flags.DEFINE_string("workdir", None, "folder of the training run")
    flags.DEFINE_enum("split", "test", ["train", "validation", "test", "all"], "patients to show")
    flags.DEFINE_string("source", None, "another folder or zip of the same layout")
    flags.DEFINE_integer("port", 0, "port to serve on; 0: any that is free", 0, 65535)
    flags.DEFINE_bool("no-browser", False, "only print the address")
    flags.DEFINE_string("niivue", None, "copy of NiiVue for 3D rendering")
    cli.parse_flags(argv, __doc__)
    options = flags.FLAGS
    if options.workdir is None:
        raise UserError("what shall be shown? Give --workdir DIR (see --help)")
    if options.source is not None and options["split"].present:
        raise UserError("--source takes all its patients; leave --split out")
    niivue = Path(options.niivue).expanduser() if options.niivue else None
    if niivue and not (niivue.suffix == ".js" and niivue.is_file()):
        raise UserError(f"--niivue {niivue}: no such script; see --help for where it comes from")
    keep_compiled_programs()
    gallery = open_run(Path(options.workdir).expanduser(), options.split, options.source)
    with make_server(gallery, options.port, niivue) as server:
        count = len(gallery.rows)
        print(f"{count} patient{'s' * (count != 1)} at {address(server)}", flush=True)
        print("Ctrl-C ends", flush=True)
        if not options["no-browser"].value and _has_screen():
            webbrowser.open(address(server))
        server.serve_forever()


def _has_screen() -> bool:
    """Return whether a window can open; else webbrowser would start one in this terminal."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform in ("darwin", "win32") or any(os.environ.get(s) for s in screens)


if __name__ == "__main__":
    cli.run(main)
