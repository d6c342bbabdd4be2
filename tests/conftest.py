"""Shared set-up: eight simulated devices, strict ranks, fast compiles, real scans where present."""

import gc
import os
import resource
import signal
import sys
from pathlib import Path

# At the end: jaxseg itself is tested as it is installed.
sys.path.append(str(Path(__file__).parents[1]))  # benchmarks/ is not

# Must be set before jax is imported. Level 0 compiles several times faster than jax's own.
os.environ["JAX_PLATFORMS"] = "cpu"
if "--xla_force_host" not in (given := os.environ.get("XLA_FLAGS", "")):  # as in the workers
    devices = "--xla_force_host_platform_device_count=8"
    os.environ["XLA_FLAGS"] = f"{given} --xla_backend_optimization_level=0 {devices}"
# In the programs that the tests start as well.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parents[1] / ".pytest_cache/jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["PYTHONDONTWRITEBYTECODE"] = ""  # set in containers: every start would compile Python

import hypothesis
import jax
import pytest
from absl import flags

from jaxseg.machine.cpu import set_xla_flags

sys.dont_write_bytecode = False
jax.config.update("jax_numpy_rank_promotion", "raise")
# From the start, not from the first test on that starts to compute: they are part of the keys of
# the cache on disk, which would differ with the tests that a worker happens to have run before.
set_xla_flags()
# Under nohup or in the background of a script they are ignored, and the programs under test would
# inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
flags.FLAGS.mark_as_parsed()  # grain's loader processes ask for parsed flags

# An example may take long on a busy machine; guard.py limits whole tests.
hypothesis.settings.register_profile("jaxseg", deadline=None)
hypothesis.settings.load_profile("jaxseg")

pytest_plugins = ["guard", "made_once"]

# Files of tests that take long, begun first: no worker is left alone with them at the end.
LONG = ("old_run", "train", "train_volumes", "evaluate", "real", "long_runs") + (
    *("processes", "regions_run", "disk_full", "steps", "tuning", "view_switching", "api"),
    *("folds", "mesh_volumes", "export", "export_volumes"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]):
    """Put whole files in the order in which they are handed to the workers."""
    long = {f"test_{name}.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: long.get(item.path.name, len(long)))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Four workers for all quick tests, which wait as well as compute; one where few are named."""
    few = config.option.keyword or config.option.markexpr != "not slow"
    named = all(Path(name.partition("::")[0]).is_file() for name in config.args)
    return 0 if few or named else 4


def pytest_collection_finish():
    """Have the collector of cycles walk seldom, and not over what was imported: a tenth of all."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 300)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """Lift a limit on files, as test_disk_full.py sets, before pytest writes to its own log."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        return (yield)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


@pytest.fixture(scope="session")
def lgg_source() -> Path:
    """The real LGG scans: $JAXSEG_LGG or ../shared beside the checkout; skips without them."""
    beside = Path(__file__).parents[2] / "shared" / "data" / "lgg" / "kaggle_3m"
    source = Path(os.environ.get("JAXSEG_LGG", beside))
    if not source.is_dir():
        pytest.skip(f"no real scans at {source}; set JAXSEG_LGG to a kaggle_3m folder")
    return source
