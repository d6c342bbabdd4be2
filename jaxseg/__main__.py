"""All programs of jaxseg: jaxseg PROGRAM ..., or python -m jaxseg PROGRAM ...

  doctor    say what a data set is, what is wrong with it, what a training would cost
  train     train, test and draw
  evaluate  score a trained model, also on another source, or on all folds
  compare   compare two models on the same patients
  predict   segment scans
  view      look at scans and predictions in the browser
  export    ship a trained model as one file

jaxseg PROGRAM --help says more; jaxseg train and python -m jaxseg.train are the same.
"""

import difflib
import importlib
import re
import signal
from collections.abc import Sequence

from jaxseg.config import command_line
from jaxseg.errors import UserError

PROGRAMS = tuple(re.findall(r"^  (\w+) ", __doc__, re.MULTILINE))


def dispatch(argv: Sequence[str]):
    """Run the program that the first argument names; say which there are."""
    name, *rest = argv or ("--help",)
    if name not in PROGRAMS and name.startswith("-"):
        command_line.parse(argv or ("--help",), __doc__)
    if name not in PROGRAMS:
        close = difflib.get_close_matches(name, PROGRAMS, n=1)
        guess = f"did you mean {close[0]}?" if close else f"there are {', '.join(PROGRAMS)}"
        raise UserError(f"{name}: no such program; {guess}")
    before = signal.getsignal(signal.SIGINT)
    if before == signal.default_int_handler:  # Ctrl-C amid seconds of imports: no traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    program = importlib.import_module(f"jaxseg.{name}")
    signal.signal(signal.SIGINT, before)
    program.main(rest)


def main():
    """Run the command `jaxseg`."""
    command_line.run(dispatch)


if __name__ == "__main__":
    main()
