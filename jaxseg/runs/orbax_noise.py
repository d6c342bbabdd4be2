"""What orbax's threads print on their own when a file fails: silenced, since we say it in a line.

Each of the many files of a checkpoint has its own task, and each failed one its traceback.
"""

import logging
import sys
import warnings

from absl import logging as absl_logging


def silence():
    """Silence orbax's log and the remains of its tasks for the life of the process."""
    absl_logging.set_verbosity(absl_logging.ERROR)
    absl_logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # 'exception was never retrieved'
    warnings.filterwarnings("ignore", "coroutine 'async_serialize.*never awaited", RuntimeWarning)
    hook = sys.unraisablehook

    def without_closed_loops(unraisable):
        # A write of tensorstore that ends after orbax has given up the others.
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    sys.unraisablehook = without_closed_loops
