"""Memory that is freed is kept for the next step, however much it is."""

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


def page_faults(**environment: str) -> list[int]:
    names = ("MALLOC_", "GLIBC_TUNABLES")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(names)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=clean | environment, capture_output=True, check=True)
    return [int(count) for count in done.stdout.split()]


def test_gigabytes_that_were_freed_are_taken_again_without_a_page_fault():
    first, second = page_faults()
    assert first >= PAGES
    assert second < PAGES / 10


def test_settings_of_the_user_stay():
    first, second = page_faults(MALLOC_TRIM_THRESHOLD_="131072")
    assert second > first / 2
