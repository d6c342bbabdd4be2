"""Our figures beside those of the official packages, in an environment of their own.

    python3 -m venv /tmp/oracle
    /tmp/oracle/bin/pip install brats-evaluation panoptica surface-distance connected-components-3d
    JAXSEG_BRATS_PYTHON=/tmp/oracle/bin/python pytest tests/scoring/test_brats_oracle.py

Seen with brats-evaluation 0.0.10, panoptica 2.1.7, surface-distance 0.1, NumPy 2.2.6.
"""

import json
import os
import subprocess

import numpy as np
import pytest
from scipy import ndimage

from jaxseg.scoring import surfels
from jaxseg.scoring.brats import CHALLENGES, brats_2026, legacy, lesionwise_2023

PYTHON = os.environ.get("JAXSEG_BRATS_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="JAXSEG_BRATS_PYTHON is not set")
SPACINGS = ((1.0, 1.0, 1.0), (2.0, 0.75, 0.75), (0.5, 1.5, 1.25))

# The 2023 definition has no package: written here lesion by lesion, with the oracle's own parts.
ORACLE = """
import json, sys
import numpy as np
np.Inf = np.inf  # surface-distance 0.1 is older than NumPy 2
import cc3d, surface_distance
from scipy import ndimage
ndimage.filters, ndimage.morphology = ndimage, ndimage
from panoptica import Panoptica_Evaluator
from brats_evaluation import config_path

def dice(a, b):
    return 2.0 * (a & b).sum() / (a.sum() + b.sum())

def surfaces(prediction, truth, spacing):
    return surface_distance.compute_surface_distances(truth, prediction, spacing)

def hd95(prediction, truth, spacing):
    if not prediction.any():
        return 374.0
    return surface_distance.compute_robust_hausdorff(surfaces(prediction, truth, spacing), 95)

def lesionwise(prediction, truth, spacing, dilations, dropped):
    struct = ndimage.generate_binary_structure(3, 2)
    joined = cc3d.connected_components(ndimage.binary_dilation(truth, struct, dilations))
    parts, matched, rows = cc3d.connected_components(prediction), set(), []
    for i in range(1, joined.max() + 1):
        lesion = truth & (joined == i)
        near = ndimage.binary_dilation(lesion, struct, dilations)
        touching = set(np.unique(parts[near])) - {0}
        matched |= touching
        mine = np.isin(parts, list(touching))
        if lesion.sum() * np.prod(spacing) > dropped:
            rows.append((dice(mine, lesion), hd95(mine, lesion, spacing)))
    rows += [(0.0, 374.0)] * len(set(range(1, parts.max() + 1)) - matched)
    return np.mean(rows, 0).tolist() if rows else [1.0, 0.0]

cases = np.load(sys.argv[1])
evaluator = Panoptica_Evaluator.load_from_config(str(config_path("MenRT")))
found = []
for i in range(len(cases.files) // 3):
    prediction, truth = (cases[f"{name}{i}"] for name in ("prediction", "truth"))
    spacing = tuple(cases[f"spacing{i}"].tolist())
    both = surfaces(prediction, truth, spacing)
    given = [m.astype(np.uint8) for m in (prediction, truth)]
    r = evaluator.evaluate(*given, voxelspacing=spacing)["gtv"].to_dict(True)
    found.append({
        "nsd": surface_distance.compute_surface_dice_at_tolerance(both, 1.0),
        "legacy": [dice(prediction, truth), hd95(prediction, truth, spacing)],
        "GLI": lesionwise(prediction, truth, spacing, 3, 50),
        "MET": lesionwise(prediction, truth, spacing, 1, 2),
        "2026": [r["sq_dsc"], r["sq_hd95"], r["sq_nsd"], r["tp"], r["fn"], r["fp"]],
    })
print("FOUND" + json.dumps(found))
"""


def _blobs(rng, shape, size, level):
    noise = ndimage.gaussian_filter(rng.normal(size=shape), size)
    return noise > level * noise.std()


def _cases():
    """Return smooth random masks (prediction, truth, spacing) of many lesions, with specks."""
    rng = np.random.default_rng(7)
    for i in range(12):
        shape = tuple(rng.integers(20, 44, 3))
        truth = _blobs(rng, shape, 2.0 + i % 3, 1.6)
        prediction = (np.roll(truth, 1, i % 3) | _blobs(rng, shape, 1.5, 2.2)) & (
            rng.random(shape) > 0.03 * (i % 2)
        )
        yield prediction, truth, SPACINGS[i % 3]


def test_random_masks_score_the_same(tmp_path):
    cases, arrays = list(_cases()), {}
    for i, (prediction, truth, spacing) in enumerate(cases):
        arrays |= {f"prediction{i}": prediction, f"truth{i}": truth, f"spacing{i}": spacing}
    np.savez(tmp_path / "cases.npz", **arrays)
    (tmp_path / "oracle.py").write_text(ORACLE)
    command = [PYTHON, str(tmp_path / "oracle.py"), str(tmp_path / "cases.npz")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    told = json.loads(run.stdout.split("FOUND")[1])
    for case, expected in zip(cases, told, strict=True):
        assert surfels.nsd(*case) == pytest.approx(expected["nsd"], abs=1e-12)
        assert legacy(*case)[:2] == pytest.approx(expected["legacy"], abs=1e-9)
        for name in ("GLI", "MET"):
            found = lesionwise_2023(*case, CHALLENGES[name])[:2]
            assert found == pytest.approx(expected[name], abs=1e-9)
        assert brats_2026(*case) == pytest.approx(expected["2026"], abs=1e-9)
