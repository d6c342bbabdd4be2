"""No file that is read can bring code: nothing is unpickled, nothing evaluated."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_data import write_folders

import jaxseg

ROOT = Path(jaxseg.__file__).parent
MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "runpy"}
ALLOWED = {
    "config/recipes.py": {"runpy"},  # runs the file of --config: code that the user chose to run
    # What a process hands to its own loader processes, in a folder that nobody else may open.
    "datasets/loaders.py": {"cloudpickle"},
}
CALLS = {"eval", "exec", "compile", "__import__", "pd.read_pickle", "torch.load"}


def unsafe(source: str) -> set[str]:
    """Return what could run code that a file brings."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= MODULES & {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            found |= MODULES & {node.module.split(".")[0], *names}
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            told = any(ast.unparse(k) == "allow_pickle=False" for k in node.keywords)
            if called in CALLS or called in ("np.load", "numpy.load") and not told:
                found.add(called)
    return found


@pytest.mark.parametrize(
    "source, expected",
    [
        ("import pickle as p", {"pickle"}),
        ("def f():\n    from joblib.numpy_pickle import load", {"joblib"}),
        ("x = np.load(path)", {"np.load"}),
        ("x = np.load(path, allow_pickle=True)", {"np.load"}),
        ("x = np.load(path, allow_pickle=False)", set()),
        ("eval(text)", {"eval"}),
        ("import runpy", {"runpy"}),
        ("model.eval(); re.compile(text); import importlib.metadata", set()),
    ],
)
def test_unsafe_code_is_seen(source, expected):
    assert unsafe(source) == expected


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_package_reads_no_code(path):
    assert unsafe(path.read_text()) == ALLOWED.get(str(path.relative_to(ROOT)), set())


def test_a_prepared_copy_is_read_without_unpickling(tmp_path):
    """Python itself tells of every class that is unpickled, whatever library does it."""
    write_folders(tmp_path / "source")
    code = f"""
import sys
found = []
sys.addaudithook(lambda event, args: found.append(args) if event == "pickle.find_class" else None)
from jaxseg.datasets.prepare import prepare
from jaxseg.config import Dataset
c = Dataset(name="image_folder", source={str(tmp_path / "source")!r}, cache_dir={str(tmp_path)!r})
for _ in range(2):  # made, then found
    records = list(prepare(c).source())
assert len(records) == 9 and not found, found
import pickle
pickle.loads(pickle.dumps(Dataset))
assert len(found) == 1
"""
    env = os.environ | {"PYTHONPATH": str(ROOT.parent)}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
