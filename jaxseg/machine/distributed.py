"""Several processes, on one machine or many, as one run: joining, agreeing, failing together.

Every process runs the same program on its own devices and its own share of the data. With a
single process all of this does nothing.
"""

import contextlib
import itertools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxseg.errors import TrainingFailed, UserError, one_line
from jaxseg.machine.start import check_devices

T = TypeVar("T")

_ADDRESS, _COUNT, _ID = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
# Number of tasks of an srun step and of Open MPI's mpirun.
_TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
JOIN_SECONDS = 300  # for all processes to appear
# A process that is gone ends the others after so long at the latest, often at once.
HEARTBEAT_SECONDS = 60


def join():
    """Join the other processes where asked for or where a cluster is detected; before any jax use.

    Asked for: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or
    JAXSEG_DISTRIBUTED=1 where jax finds them by itself (TPU pods). Detected: one of several
    tasks of srun or Open MPI. All but the first process are silent on stdout from here on.

    Raises:
        UserError: incomplete variables; the others did not appear in time; no device.
    """
    _join()
    check_devices()


def _join():
    address = os.environ.get(_ADDRESS)
    tasks = max(_whole_number(name, 1) for name in _TASKS)
    if not (address or tasks > 1 or os.environ.get("JAXSEG_DISTRIBUTED", "0") != "0"):
        return
    known = (address, _whole_number(_COUNT), _whole_number(_ID)) if address else (None,) * 3
    if address and None in known:
        raise UserError(f"{_ADDRESS} is set: {_COUNT} and {_ID} are needed too")
    # Its SIGTERM handler would displace ours, which serves one process and many alike.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            *known,
            cluster_detection_method="deactivate" if address else None,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        reason = one_line(error)[:300]
        raise UserError(f"cannot join the other processes of this run: {reason}") from error
    if not is_main():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what C++ libraries print too


def _whole_number(variable: str, default: int | None = None) -> int | None:
    text = os.environ.get(variable)
    if text is not None and not text.isdigit():
        raise UserError(f"{variable}={text!r}: must be a whole number")
    return default if text is None else int(text)


def is_main() -> bool:
    """Return whether this process writes the figures, logs and reports."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """Return the JSON-able values of all processes in their order; all must call it."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(data)))
    padded = np.pad(data, (0, lengths.max() - len(data)))
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:n].tobytes()) for row, n in zip(rows, lengths, strict=True)]


def gather_shares(mine: Sequence[Any]) -> list[Any]:
    """Return the JSON-able items of all processes, which took every n-th each, in order."""
    rows = itertools.zip_longest(*gather(list(mine)))  # the last ones may lack an item
    return [item for row in rows for item in row if item is not None]


class _ToldOnAll(UserError):
    """An error that every process knows of."""


def together(action: Callable[[], T]) -> T:
    """Run an action on every process; a UserError of one of them ends all, told once.

    Returns:
        What the action returned on this process.

    Raises:
        UserError: of the first process that had one; the others exit with the same code 2.
    """
    if jax.process_count() == 1:
        return action()
    result, problem = None, None
    try:
        result = action()
    except UserError as error:
        problem = str(error)
    problems = gather(problem)
    found = [(i, text) for i, text in enumerate(problems) if text is not None]
    if found and is_main():
        i, text = found[0]
        raise _ToldOnAll(text if i == 0 else f"process {i}: {text}")
    if found:
        sys.exit(2)
    return result


def on_main(action: Callable[[], T]) -> T:
    """Run an action on the first process while the others wait; errors as in `together`.

    Returns:
        What it returned there, on every process; it must be JSON-able.
    """
    return gather(together(lambda: action() if is_main() else None))[0]


def check_same(what: str, text: str):
    """Raise UserError unless all processes have the same text."""

    def check():
        others = [i for i, other in enumerate(texts) if other != texts[0]]
        if others:
            raise UserError(f"process {others[0]} was started with other {what} than process 0")

    texts = gather(text)
    together(check)


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """End this process at once when the block fails, so that the others, which wait for it, notice.

    Without clean-up: at a normal exit each process would wait for all others.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1 or isinstance(error, (SystemExit, _ToldOnAll)):
            raise
        where = f"process {jax.process_index()} of {jax.process_count()}"
        if isinstance(error, (UserError, TrainingFailed)):
            print(f"error: {where}: {error}", file=sys.stderr)
        elif isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error):
            reason = one_line(error)[:400]
            print(
                f"error: {where} cannot go on, most likely since it has lost another process, "
                f"whose own message says why ({reason}). The same command on all processes goes "
                "on from the last checkpoint.",
                file=sys.stderr,
            )
        elif isinstance(error, KeyboardInterrupt):
            print(f"interrupted: {where}", file=sys.stderr)
        else:
            traceback.print_exc()
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit({UserError: 2, KeyboardInterrupt: 130}.get(type(error), 1))
