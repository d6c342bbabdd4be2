"""What a program finds at its start: a device, a place to keep what was compiled, or neither."""

import os
import subprocess
import sys

import pytest

from jaxseg.errors import UserError
from jaxseg.machine import files

CODE = """
from jaxseg.machine import start
start.start_computing()
from jaxseg.models import native
import jax
print(jax.config.jax_compilation_cache_dir, native.problem()[:15])
"""


def start(**variables: str | None) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in (os.environ | variables).items() if v is not None}
    code = (
        f"from unittest import mock\nwith mock.patch('os.path.expanduser', str):\n  exec({CODE!r})"
    )
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


def test_a_device_that_is_not_there_is_a_user_error():
    done = start(JAX_PLATFORMS="cuda")
    assert "UserError: JAX_PLATFORMS=cuda: jax finds no such device here" in done.stderr


def test_without_a_home_nothing_is_kept(monkeypatch):
    done = start(JAX_PLATFORMS="cpu", XDG_CACHE_HOME=None, JAX_COMPILATION_CACHE_DIR=None)
    assert done.stdout == "None no cache folder\n", done.stderr
    monkeypatch.setattr("os.path.expanduser", str)
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert str(files.cache_folder()) == "/some/where/jaxseg"
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(UserError, match="set one of them, or config.dataset.cache_dir"):
        files.cache_folder()
