"""The package's shape: imports run one way, heavy libraries stay in one file, files stay short."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxseg

ROOT = Path(jaxseg.__file__).parent
MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 60

# A module imports modules of lower levels only. Names are relative to jaxseg; "" is its __init__.
LEVELS = (
    (
        *("calibration", "checkpoint_files", "compile_cache", "cpu_setup", "errors", "intensity"),
        *("metrics", "orbax_noise", "portable", "profiler", "scoretext", "signals", "surface"),
        *("tensorboard", "datasets.decode", "datasets.index", "datasets.phantom"),
    ),
    (
        *("", "baselines", "config_data", "distributed", "geometry", "leakage", "locks", "native"),
        *("portable_volume", "scorecard", "volume", "datasets.builder", "datasets.decoded"),
        *("datasets.files",),
    ),
    (
        *("config", "figures", "layers", "report", "datasets.checks", "datasets.lgg"),
        *("datasets.prepared",),
    ),
    (
        *("augment", "comparison_figure", "control", "dicom_io", "image_io", "losses", "model"),
        *("nifti_io", "operating_figure", "optimizer", "settings", "sharding", "view_data"),
        *("datasets.image_folder", "datasets.splits"),
    ),
    ("cli", "datasets", "state", "view_server", "volume_io", "datasets.layouts"),
    ("checkpoint", "data", "dataset_facts", "steps", "workdir"),
    (
        *("compare", "export_file", "findings", "folds", "onnx_convert", "onnx_export"),
        *("operating", "progress", "step_time", "suggest", "validation"),
    ),
    ("cost", "doctor_page", "inference", "predictions"),
    ("doctor", "export_compare", "threshold_baseline", "tiles", "tuning"),
    ("evaluate", "export_about", "predict"),
    ("export", "train", "view_run"),
    ("view_predictions",),
    ("view",),
)
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}

# Each heavy library and the modules that import it: a new version touches these files only.
HOMES = {
    "orbax": {"checkpoint"},
    "grain": {"data"},
    "tensorflow_datasets": {"datasets.builder"},
    "matplotlib": {"comparison_figure", "figures", "operating_figure"},
    "ml_collections": {"cli"},
    "tensorboardX": {"tensorboard"},
    "absl.flags": {"cli", "compare", "doctor", "evaluate", "export", "predict", "train", "view"},
    "flax": {"layers", "model"},
    "optax": {"optimizer", "steps"},
    "cv2": {"augment", "datasets.decode", "geometry", "image_io", "intensity", "surface"},
    "scipy": {"calibration", "datasets.phantom", "operating", "surface", "tuning"},
    "jax2onnx": {"onnx_convert"},
    "onnx": {"onnx_convert"},
    "onnxruntime": {"onnx_convert"},
    "nibabel": {"nifti_io"},
    "pydicom": {"dicom_io"},
    "highdicom": {"dicom_io"},
}

# Loaded by the function that needs them: a second or two that no start should wait for.
LATE = ("matplotlib", "scipy.ndimage", "tensorflow_datasets", "nibabel", "pydicom", "highdicom")

# Reading, augmenting and reporting run on the host, the first in loader processes.
HOST = {m for m in LEVEL if m == "datasets" or m.startswith("datasets.")} | {
    *("augment", "baselines", "calibration", "cli", "compare", "comparison_figure", "config"),
    *("config_data", "cpu_setup", "data", "dataset_facts", "dicom_io", "doctor_page", "errors"),
    *("figures", "findings", "folds", "geometry", "image_io", "intensity", "leakage", "locks"),
    *("nifti_io", "operating", "operating_figure", "predictions", "report", "scorecard"),
    *("scoretext", "signals", "suggest", "surface", "tensorboard", "view_data", "view_server"),
    *("volume", "volume_io", "workdir"),
}
LOADER = ("data", "augment", "geometry", "intensity", "datasets")


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(path): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}
every_module = pytest.mark.parametrize("module", TREES, ids=lambda m: m or "__init__")


def imported(module):
    """Return the dotted names that a module imports, inside functions too."""
    names = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"jaxseg.{module}: write imports in full, not relative"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_modules(module):
    """Return the modules of jaxseg among the imports: the longest known prefix of each name."""
    found = set()
    for name in imported(module):
        if name.split(".")[0] == "jaxseg":
            parts = name.split(".")[1:]
            while ".".join(parts) not in TREES:
                parts.pop()
            found.add(".".join(parts))
    return found


def importers(library):
    return {
        module
        for module in TREES
        if any(f"{name}.".startswith(f"{library}.") for name in imported(module))
    }


@every_module
def test_imports_run_one_way(module):
    assert module in LEVEL, f"jaxseg.{module}: give it a level in tests/test_imports.py"
    for other in imported_modules(module):
        assert other in LEVEL, f"jaxseg.{other}: give it a level in tests/test_imports.py"
        assert LEVEL[other] < LEVEL[module], f"jaxseg.{module} must not import jaxseg.{other}"


def test_every_level_names_modules_that_exist():
    assert set(LEVEL) == set(TREES)
    assert len(LEVEL) == sum(map(len, LEVELS)), "a module has two levels"


@pytest.mark.parametrize("library", HOMES)
def test_heavy_library_stays_at_home(library):
    assert importers(library) == HOMES[library]


def test_programs_start_without_the_libraries_of_later():
    code = f"import sys, jaxseg.train; print([m for m in {LATE} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_host_code_does_not_import_jax():
    assert not HOST & importers("jax")
    assert importers("jax"), "the search itself is broken"


@pytest.mark.parametrize("module", LOADER)
def test_loader_processes_load_no_module_with_jax(module):
    seen, todo = set(), {module}
    while todo:
        seen |= todo
        todo = set().union(*(imported_modules(m) for m in todo)) - seen
    assert not seen & importers("jax")


@every_module
def test_files_and_functions_stay_short(module):
    tree = TREES[module]
    path = ROOT / (module.replace(".", "/") + ".py")
    path = path if path.is_file() else ROOT / module.replace(".", "/") / "__init__.py"
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_FILE_LINES, f"{path.name} has {lines} lines"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{path.name}: {node.name} has {length} lines"
