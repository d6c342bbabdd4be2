"""What takes long to compile is named while it is compiled, again, and when it is done."""

import os
import re
import subprocess
import sys
import time

import pytest

from jaxseg.machine import announce

CODE = """
import sys, time
from unittest import mock
import jax
from jax._src import compiler
from jaxseg.machine import announce

announce.PATIENCE_SECONDS, announce.AGAIN_SECONDS = 0.5, 0.4
announce.announce_compilations()
announce.announce_compilations()
compile_it = compiler.compile_or_get_cached

def slow(*args, **options):
    time.sleep(float(sys.argv[1]))
    return compile_it(*args, **options)

def train_step(x):
    return x + 1

with mock.patch.object(compiler, "compile_or_get_cached", slow):
    for _ in range(2):
        jax.jit(train_step)(1.0)
"""


@pytest.mark.parametrize("seconds", [0.0, 1.5])
def test_what_takes_long_is_said_while_it_takes(seconds):
    """After 0.5 s, then every 0.4 s, by one announcer; nothing of what is quick."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(seconds)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    if not seconds:
        assert not [line for line in lines if "train_step" in line]
        return
    assert lines[0] == "compiling train_step ..."
    assert re.fullmatch(r"(compiling train_step for \d s ...\n)+", "\n".join(lines[1:-1]) + "\n")
    assert re.fullmatch(r"compiled train_step in \d s", lines[-1])


class Full:
    """A stream on a full disk."""

    def write(self, text):
        raise OSError(28, "No space left on device")

    flush = write


def test_a_stream_that_refuses_ends_nothing(monkeypatch):
    monkeypatch.setattr(announce, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stdout", Full())
    one = announce.Announcer("jit(slow)")
    end = time.monotonic() + 10
    while not one._said and time.monotonic() < end:
        time.sleep(0.01)
    one.end(3.0)
    assert one._said and one.name == "slow"
