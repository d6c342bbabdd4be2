"""Memory that is freed is kept for the next step, however much it is, and holes are not."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")

# More than 2 GiB, the largest threshold that glibc takes: a batch of 16 at 256x256 needs 3.5.
PROGRAM = """
import resource
from jaxseg.machine.cpu import set_up_cpu
set_up_cpu()
import numpy as np

def fill():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**28 + 2**24, np.float64)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(fill(), fill())
"""
PAGES = (2**28 + 2**24) * 8 // 2**21  # if they are large ones; else 512 times as many


# What is freed lies below something that stays, and what follows is a page larger, six times.
HOLE = """
import resource, time
from jaxseg.machine.cpu import set_up_cpu
set_up_cpu()
import numpy as np

SIZE, PIECES = 2**28, 32

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def fill(array):
    for piece in np.array_split(array, PIECES):
        piece[:] = 1
        time.sleep(0.03)

array = np.empty(SIZE, np.uint8)
stays = [np.empty(2 * SIZE, np.uint8)]  # above it, for no hole is as large; never touched
fill(array)
before = peak()
for i in range(1, 7):
    del array
    array = np.empty(SIZE + i * 2**12, np.uint8)
    stays.append(np.empty(2 * SIZE, np.uint8))
    fill(array)
    print(peak() - before)
"""

COMPILED = """
from jaxseg.machine.cpu import set_up_cpu
set_up_cpu()
from pathlib import Path
import jax, numpy as np

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

jax.jit(lambda x: x + 1)(1).block_until_ready()
np.ones(2**28, np.uint8)  # freed at once
full = resident()
jax.jit(lambda x: x + 2)(1).block_until_ready()
print(full, full - resident())
"""


def run(program: str, **environment: str) -> list[int]:
    names = ("MALLOC_", "GLIBC_TUNABLES")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(names)}
    command = [sys.executable, "-c", program]
    environment = {"JAX_PLATFORMS": "cpu"} | environment
    done = subprocess.run(command, env=clean | environment, capture_output=True, check=True)
    return [int(count) for count in done.stdout.split()]


def test_a_hole_that_the_next_array_does_not_fit_into_is_given_back():
    grown = run(HOLE)
    # Not the whole of it, but what is filled until the hole is seen; and no more each time.
    assert max(grown) < 0.8 * 2**28 and grown[-1] < grown[0] + 2**26


def test_gigabytes_that_were_freed_are_taken_again_without_a_page_fault():
    first, second = run(PROGRAM)
    assert first >= PAGES
    assert second < PAGES / 10


def test_settings_of_the_user_stay():
    first, second = run(PROGRAM, MALLOC_TRIM_THRESHOLD_="131072")
    assert second > first / 2


@pytest.mark.parametrize("platforms", ["", "cpu"])
def test_beside_an_accelerator_memory_is_kept_only_where_the_cpu_is_asked_for(tmp_path, platforms):
    """One heap for the threads that compile for a GPU would have them wait for each other."""
    (tmp_path / "jax_cuda13_plugin").mkdir()
    (tmp_path / "jax_cuda13_plugin" / "__init__.py").touch()
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    first, second = run(PROGRAM, PYTHONPATH=path, JAX_PLATFORMS=platforms)
    assert (second < first / 2) == (platforms == "cpu")


def test_what_is_free_is_given_back_once_a_program_is_compiled():
    full, given_back = run(COMPILED)
    assert given_back > 2**27  # half of it: compiling takes some, too
