"""The package's shape: imports run one way, heavy libraries stay in one file, files stay short."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "jaxseg"  # not the installed copy, which holds the recipes too
MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 60

# What each wing may import, besides itself and errors: jaxseg/__init__.py and jaxseg/errors.py are
# open to all. A wing is a folder; the programs on top may import every wing.
WINGS = {
    "config": "",
    "scans": "",
    "scoring": "",
    "machine": "config",
    "imaging": "config",
    "layouts": "config scans",
    "datasets": "config machine scans layouts imaging",
    "models": "config machine",
    "training": "config machine models scoring",
    "transforms": "config machine imaging",
    "runs": "config machine imaging datasets models training transforms scoring",
    "prediction": "config machine scans layouts imaging datasets models runs scoring",
    "evaluation": "config machine scans layouts imaging datasets runs scoring prediction",
    "diagnosis": "config machine scans layouts imaging datasets training transforms scoring",
    "shipping": "config machine scans imaging datasets models runs prediction scoring",
    "viewer": "config machine scans layouts imaging datasets runs scoring prediction evaluation",
}
PROGRAMS = ("train", "evaluate", "predict", "export", "view", "doctor", "compare")
TOP = ("", "__main__", "errors", "api", *PROGRAMS)

# Each heavy library and the modules that import it: a new version touches these files only.
HOMES = {
    "orbax": {"runs.checkpoint"},
    "grain": {"datasets.loaders"},
    "cloudpickle": {"datasets.loaders"},
    "tensorflow_datasets": {"datasets.builder"},
    "matplotlib": {"scoring.comparison_figure", "scoring.contours", "scoring.figures"}
    | {"scoring.operating_figure", "scoring.planes", "scoring.region_figure"},
    "tensorboardX": {"runs.tensorboard"},
    "absl.flags": {"datasets.loaders"},
    "flax": {"models.initial", "models.layers", "models.resampling", "models.unet"},
    "optax": {"training.optimizer", "training.steps"},
    "cv2": {"imaging.augment_contrast", "imaging.augment_shape", "imaging.geometry"}
    | {"imaging.intensity", "scans.decode", "scans.slices", "scoring.surface"},
    "scipy": {
        "datasets.phantom",
        "datasets.phantom_head",
        "datasets.phantom_volume",
        "diagnosis.volume_facts",
        "evaluation.tuning",
    }
    | {"scoring.calibration", "scoring.lesions", "scoring.surface"},
    "jax2onnx": {"shipping.onnx_convert"},
    "onnx": {"shipping.onnx_convert"},
    "onnxruntime": {"shipping.onnx_convert"},
    "nibabel": {"scans.nifti"},
    "nrrd": {"scans.nrrd"},
    "pydicom": {"scans.dicom_planes", "scans.dicom_seg"},
    "highdicom": {"scans.dicom_seg"},
}

# Loaded by the function that needs them: a second or two that no start should wait for.
LATE = (
    "matplotlib",
    "scipy.ndimage",
    "tensorflow_datasets",
    "nibabel",
    "nrrd",
    "pydicom",
    "highdicom",
)

# Reading, augmenting and reporting run on the host, the first in loader processes.
HOST = ("config", "scans", "scoring", "imaging", "layouts", "datasets")


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
every_module = pytest.mark.parametrize("module", FILES, ids=lambda m: m or "__init__")


@functools.cache
def tree(module):
    return ast.parse(FILES[module].read_text())


def imported(module):
    """Return the dotted names that a module imports, inside functions too."""
    names = set()
    for node in ast.walk(tree(module)):
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
            while ".".join(parts) not in FILES:
                parts.pop()
            found.add(".".join(parts))
    return found


def importers(library):
    return {
        module
        for module in FILES
        if any(f"{name}.".startswith(f"{library}.") for name in imported(module))
    }


def wing_of(module):
    return module.split(".")[0]


@every_module
def test_a_module_imports_only_the_wings_of_its_row(module):
    if module in TOP:
        return
    wing = wing_of(module)
    assert wing in WINGS, f"jaxseg.{module}: give its folder a row in tests/test_imports.py"
    for other in imported_modules(module):
        known = {wing, *WINGS[wing].split(), "errors", ""}
        assert wing_of(other) in known, f"jaxseg.{module} must not import jaxseg.{other}"


def test_the_package_imports_nothing_and_its_face_no_program():
    assert imported_modules("") <= {"api"}  # when it is first used
    assert not imported_modules("errors")
    assert not imported_modules("api") & set(PROGRAMS)


def test_nobody_imports_a_program():
    for module in FILES:
        assert not imported_modules(module) & set(PROGRAMS), module


def circle(graph):
    """Return nodes of a graph {node: nodes it needs} that need each other, or none."""
    left = {node: set(needs) - {node} for node, needs in graph.items()}
    while free := [node for node, needs in left.items() if not needs & set(left)]:
        for node in free:
            del left[node]
    return sorted(left)


def test_no_circle_of_wings_or_files():
    assert circle({"a": {"b"}, "b": {"a"}, "c": {"a"}}) == ["a", "b", "c"]
    assert not circle({wing: row.split() for wing, row in WINGS.items()})
    assert not circle({module: imported_modules(module) - {""} for module in FILES if module})


def test_every_wing_has_files_and_says_what_it_is_for():
    found = {wing_of(module) for module in FILES if module not in TOP}
    assert found == set(WINGS)
    for wing in WINGS:
        files = [m for m in FILES if m.startswith(f"{wing}.") and m.count(".") == 1]
        assert len(files) > 1, f"{wing}: no wing of one file"
        words = " ".join(ast.get_docstring(tree(wing)).split())
        assert len(words) > 200 and "Begin with `" in words, wing


@pytest.mark.parametrize("library", HOMES)
def test_heavy_library_stays_at_home(library):
    assert importers(library) == HOMES[library]


def test_programs_start_without_the_libraries_of_later():
    code = f"import sys, jaxseg.train; print([m for m in {LATE} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_host_code_does_not_import_jax():
    assert not {module for module in importers("jax") if wing_of(module) in HOST}
    assert importers("jax"), "the search itself is broken"


def test_loader_processes_load_no_module_with_jax():
    seen, todo = set(), {"datasets.samples"}
    while todo:
        seen |= todo
        todo = set().union(*(imported_modules(m) for m in todo)) - seen
    assert not seen & importers("jax")


@every_module
def test_files_and_functions_stay_short(module):
    path = FILES[module]
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_FILE_LINES, f"{path.name} has {lines} lines"
    for node in ast.walk(tree(module)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{path.name}: {node.name} has {length} lines"
