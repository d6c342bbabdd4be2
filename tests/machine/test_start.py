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


def test_the_autotuner_of_a_gpu_keeps_its_results_beside_the_programs(tmp_path):
    """jax names the folder to XLA where programs are kept at all; seen in what it asks of XLA."""
    code = """
from jax._src import compiler
from jaxseg.machine import start
start.keep_compiled_programs()
asked = compiler.get_compile_options(1, 1)
print(asked.executable_build_options.debug_options.xla_gpu_per_fusion_autotune_cache_dir)
"""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("JAX_COMPILATION_CACHE_DIR")
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    folder = done.stdout.strip()
    assert folder.startswith(f"{tmp_path}/jaxseg/compiled/"), done.stderr
    assert folder.endswith("/xla_gpu_per_fusion_autotune_cache_dir")
