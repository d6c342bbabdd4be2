"""The notebook runs as it is, with a shorter training, and was committed with its pictures."""

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FILE = Path(__file__).parents[1] / "examples/first_look.ipynb"


def outputs(notebook, kind: str) -> list:
    """Return the outputs of a MIME type, or the texts printed, of all cells in order."""
    found = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    if kind == "text":
        return [o["text"] for o in found if o["output_type"] == "stream"]
    return [o["data"][kind] for o in found if kind in o.get("data", {})]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(FILE.parents[1]))
    notebook = nbformat.read(FILE, as_version=4)
    (settings,) = (c for c in notebook.cells if "PATIENTS, STEPS =" in c.source)
    settings.source = settings.source.replace(
        "PATIENTS, STEPS = 24, 240", "PATIENTS, STEPS = 12, 4"
    )
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")  # one device
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert len(outputs(notebook, "image/png")) == 2
    text = "".join(outputs(notebook, "text"))
    assert "12 patients; phantom_007" in text and "Dice per patient" in text
    assert (tmp_path / "first_look/finished.json").exists()
    # What the notebook scores is what the program scored.
    summary = json.loads((tmp_path / "first_look/evaluation/test/scores.json").read_text())
    dice = [float(line.split()[2]) for line in text.splitlines() if line.startswith("phantom_")]
    assert len(dice) == summary["patients"]["n"]
    assert abs(sum(dice) / len(dice) - summary["patients"]["dice"]["mean"]) < 1e-3


def test_it_is_committed_with_small_outputs():
    notebook = nbformat.read(FILE, as_version=4)
    assert 8 <= len(notebook.cells) <= 14
    assert len(outputs(notebook, "image/png")) == 2
    assert os.path.getsize(FILE) < 1_000_000
    assert not any("/home/" in text or "/root/" in text for text in outputs(notebook, "text"))
