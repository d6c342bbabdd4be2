"""What takes long to make is made once: a plugin of pytest, which conftest.py loads.

Of a tiny run, most time goes into tracing and compiling what an earlier test has compiled, and
of its data set, into painting phantoms that an earlier test has painted.
"""

import dataclasses
import functools
import os
import threading
from collections.abc import Callable

import jax
import pytest
from jax._src import compilation_cache, lru_cache

from jaxseg.config import Config, Dataset, Split, Train


def what_is_compiled(config: Config) -> Config:
    """Return the config without the settings that no compiled step depends on."""
    chosen = {name: getattr(config.train, name) for name in ("num_steps", "accumulate")}
    return dataclasses.replace(
        config, seed=0, profile=(), dataset=Dataset(), split=Split(), train=Train(**chosen)
    )


def shared(make: Callable) -> Callable:
    """Return `make`, but giving the same function for the same config and shapes again."""
    made = {}

    @functools.wraps(make)
    def once(config, *args):
        leaves, structure = jax.tree.flatten(args)
        key = what_is_compiled(config), structure, tuple(map(repr, leaves))
        if key not in made:
            made[key] = make(config, *args)
        return made[key]

    return once


@pytest.fixture(scope="session", autouse=True)
def shared_steps():
    """Have `loop.train` find the steps of earlier runs."""
    from jaxseg.runs import loop, validation  # not before pytest has set its hooks
    from jaxseg.training import state

    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (state, "_initialiser"),
            (loop, "make_feed"),
            (loop, "compiled_ahead"),
            (loop, "jit_observe"),
            (validation, "jit_validation_step"),
        ):
            patch.setattr(module, name, shared(getattr(module, name)))
        yield


@pytest.fixture(scope="session", autouse=True)
def shared_phantoms():
    """Have data sets of phantoms find those of earlier ones; test_phantom.py paints its own."""
    from jaxseg.datasets import phantom

    make = phantom.make_volume

    @functools.lru_cache(maxsize=64)  # of 2 MB each
    def made(seed, index, regions):
        volume = make(seed, index, regions)
        for array in (volume.image, volume.mask):
            array.flags.writeable = False
        return volume

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantom, "make_volume", made)
        yield


@pytest.fixture(scope="session")
def volume_config(tmp_path_factory) -> Config:
    """The config of a tiny set of volumes on disk, whose prepared copy the tests share."""
    from fake_config import tiny_volume_config  # SciPy, which few tests need
    from fake_volume_sets import write_gliomas

    folder = tmp_path_factory.mktemp("volumes")
    write_gliomas(folder / "set")
    return tiny_volume_config(folder)


def put_whole(cache: lru_cache.LRUCache, key: str, value: bytes):
    """Write an entry of the cache on disk in one go; jax's own may leave, or show, half of it."""
    part = cache.path / f"{key}.{os.getpid()}.{threading.get_ident()}"
    try:
        part.write_bytes(value)
        os.replace(part, cache.path / f"{key}-cache")  # where the other worker was first, too
    finally:
        part.unlink(missing_ok=True)


def whole(get: Callable) -> Callable:
    """Return `get`, but without what a program of another test has only begun to write."""

    @functools.wraps(get)
    def get_whole(cache, key):
        value = get(cache, key)
        try:
            return value and compilation_cache.decompress_executable(value) and value
        except Exception:  # zlib's or zstandard's
            return None

    return get_whole


def pytest_configure():
    """Keep the cache whole where a run of pytest is killed, or two use it at once."""
    lru_cache.LRUCache.put = put_whole
    lru_cache.LRUCache.get = whole(lru_cache.LRUCache.get)
