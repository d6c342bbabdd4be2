"""Several real processes on this machine, as launch/multiprocess.sh starts them.

Run as a program it is one of them: takes SGD steps on its share, predicts, and writes what the
first process knows to a file.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment(process: int, count: int, port: int, devices: int) -> dict[str, str]:
    """Return the variables of one of `count` processes with so many simulated devices each."""
    made = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "OMPI_", "JAX_", "JAXSEG_"))
    }
    made |= {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0 "
        f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"],
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    if count > 1:
        made |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}"}
        made |= {"JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(process)}
    return made


def start(
    command: list, count: int, total_devices: int, last: tuple[str, ...] = ()
) -> list[subprocess.Popen]:
    """Start the command as `count` processes that share the devices; output is captured.

    The last process gets the arguments `last` too.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command), *(last if i == count - 1 else ())],
            env=environment(i, count, port, total_devices // count),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        for i in range(count)
    ]


def finish(processes: list[subprocess.Popen], timeout: float = 300) -> list[tuple[int, str, str]]:
    """Return exit code, stdout and stderr of each; none is left behind."""
    try:
        texts = [p.communicate(timeout=timeout) for p in processes]
    finally:
        for p in processes:
            p.kill()
    return [(p.returncode, *text) for p, text in zip(processes, texts, strict=True)]


def main(output: Path, axes: dict[str, int]):
    """Take three steps on the mesh and write state and losses to a file."""
    import jax
    import numpy as np
    from fake_steps import on_host, sgd_steps, step_config

    from jaxseg.machine import distributed
    from jaxseg.machine.sharding import make_mesh

    distributed.join()
    config = step_config("batch", dropout=0.2, **axes)
    mesh = make_mesh(config.mesh)
    state, logs = sgd_steps(config, mesh, 3)
    found = [np.asarray(x) for x in jax.tree.leaves(on_host(state, mesh))]
    losses = [float(log["train_loss"]) for log in logs]
    assert distributed.gather(losses) == [losses] * jax.process_count()
    if distributed.is_main():
        np.savez(output, *found, losses=losses)


if __name__ == "__main__":
    main(Path(sys.argv[1]), {a.split("=")[0]: int(a.split("=")[1]) for a in sys.argv[2:]})
