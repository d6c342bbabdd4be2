"""Compiled programs, kept from one start to the next."""

import contextlib
import hashlib
import platform
from pathlib import Path

import jax

from jaxseg.errors import UserError, one_line
from jaxseg.machine.announce import announce_compilations
from jaxseg.machine.cpu import set_up_cpu
from jaxseg.machine.files import cache_folder


def start_computing(joining: bool = False):
    """Set this process up; what a program or the API calls before jax computes anything.

    On a CPU: XLA_FLAGS in the environment, and freed memory is kept (see `cpu`). Everywhere:
    compiled programs are kept, and what takes long to compile is announced. What the user has set
    stays.

    Args:
        joining: `distributed.join` follows, before which jax must not look for devices.

    Raises:
        UserError: there is no device of the kind that JAX_PLATFORMS names.
    """
    set_up_cpu()
    keep_compiled_programs()
    announce_compilations()
    if not joining:
        check_devices()


def check_devices():
    """Raise UserError unless jax finds a device to compute on."""
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:
        reason = one_line(error)[:200] or "it does not say why"
        raise UserError(
            f"JAX_PLATFORMS={jax.config.jax_platforms or ''}: jax finds no such device here "
            f"({reason}); install jaxseg[cuda] or jaxseg[tpu], or leave JAX_PLATFORMS out"
        ) from error


def keep_compiled_programs():
    """Keep compiled programs in the user's cache folder, unless the user chose another place.

    A second start with the same settings then compiles nothing. Without such a folder nothing is
    kept.
    """
    if jax.config.jax_compilation_cache_dir is None:
        with contextlib.suppress(UserError):
            folder = str(folder_of_machine("compiled"))
            jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def folder_of_machine(name: str) -> Path:
    """Return the folder, in the user's cache folder, of what was compiled for this kind of CPU."""
    return cache_folder() / name / _machine()


def _machine() -> str:
    """Return a name for the kind of CPU: what was compiled for one may crash another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kind = "".join(
            sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))})
        )
    except OSError:
        kind = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(kind.encode()).hexdigest()[:12]}"
