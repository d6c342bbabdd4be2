"""An exported run on volumes: its driver's masks are jaxseg's own, without jaxseg."""

import ast
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fake_config import tiny_config
from fake_run import write_run
from fake_volume_sets import write_brats

from jaxseg import export
from jaxseg.config import Dataset, Input, Model, Split
from jaxseg.errors import UserError
from jaxseg.layouts.kinds import told_by_files
from jaxseg.prediction import operating
from jaxseg.prediction.inference import predict_volume
from jaxseg.prediction.operating import OperatingPoint, segment_regions
from jaxseg.prediction.trained import load, predictor
from jaxseg.scans.regions import PRESETS, to_labels
from jaxseg.scans.volume import Volume
from jaxseg.shipping import make_volumes, sliding_window
from jaxseg.shipping.agreement import differences

NAMES = ("whole_tumour", "tumour_core", "enhancing_tumour")
POINTS = (
    OperatingPoint(0.62, 40.0, "mm3", 1.5),
    OperatingPoint(0.6, 0.0, "mm3", 0.8),
    OperatingPoint(0.49, 12.0, "mm3", 1.0),
)
WITHOUT = ("jaxseg", "cv2", "flax", "optax", "orbax", "grain", "nibabel", "pydicom", "tqdm")
ROUNDING = 2e-5  # of probabilities


def make_run(folder: Path, spacing_mm: tuple[float, ...]) -> Path:
    """Write a run on four cases with three regions; the network's kernel, not its training."""
    write_brats(folder / "scans", 4)
    source = {"source": str(folder / "scans"), "cache_dir": str(folder / "cache")}
    ids = [f"BraTS20_Training_{n:03d}" for n in (1, 2, 3, 4)]
    config = tiny_config(
        folder / "cache",
        dataset=told_by_files(Dataset(name="brats", labels="brats2021", **source)),
        split=Split(train=tuple(ids[:2]), validation=(ids[2],), test=(ids[3],)),
        input=Input(image_size=(4, 12, 8), spacing_mm=spacing_mm, num_threads=1),
        model=Model(widths=(2, 4), num_classes=3, norm="instance"),
    )
    run = write_run(folder / "run", config, POINTS[0])
    operating.write(run, NAMES, [{"point": point._asdict()} for point in POINTS])
    return run


@pytest.fixture(scope="module", params=[(), (1.4, 1.0, 0.45)], ids=["own voxels", "a grid"])
def run(request, tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("volumes"), request.param)


@pytest.fixture(scope="module")
def path(run) -> Path:
    output = run.parent / "out" / "model.jaxseg"
    make_volumes.export_volumes(load(run), True, 1, output)
    return output


@pytest.fixture(scope="module")
def model(path):
    return sliding_window.load(path)


def scan(kind: type) -> Volume:
    """Return a head with air in its tissue's midst in two of four channels, and two small ones."""
    rng = np.random.default_rng(7)
    image = np.zeros((11, 17, 15, 4))
    image[1:-1, 2:-3, 1:-2] = rng.normal(300, 90, (9, 12, 12, 4))
    image[1:-1, 2:-3, 1:-2, :2] -= 300  # brought to mean 0
    return Volume(image.astype(kind), (1.5, 0.9, 0.9), np.diag([1.5, 0.9, 0.9, 1]))


def expected(run: Path, volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Return what jaxseg predicts: probability, masks."""
    trained = load(run)
    probability = predict_volume(predictor(trained, flip=True), volume)
    return probability, segment_regions(
        probability, trained.points, trained.kind.regions, volume.spacing_mm, volume.affine
    )


CODE = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in WITHOUT:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nothing())
EXAMPLE
for kind in KINDS:
    found = sliding_window.segment(model, np.load(f"{kind}.npy"), spacing_mm=(1.5, 0.9, 0.9))
    np.savez(f"{kind}.npz", *found)
assert not {*WITHOUT} & set(sys.modules)
"""


def test_the_driver_gives_the_masks_of_jaxseg_where_jaxseg_is_not(run, path, tmp_path):
    kinds = ("int16", "uint16", "float32")
    scans = {kind: scan(np.dtype(kind)) for kind in kinds}
    for kind in kinds:
        np.save(tmp_path / f"{kind}.npy", scans[kind].image)
    with zipfile.ZipFile(path) as file:
        text = file.read("README.txt").decode()
    example = text[text.index("import sys") : text.index("volume = np.zeros")]
    code = CODE.replace("WITHOUT", repr(WITHOUT)).replace("KINDS", repr(kinds))
    code = code.replace("EXAMPLE", example.replace("model.jaxseg", str(path)))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    for kind, volume in scans.items():
        probability, masks, labels = np.load(tmp_path / f"{kind}.npz").values()
        ours, mask = expected(run, volume)
        np.testing.assert_allclose(probability, ours, atol=ROUNDING)
        assert mask.any() and (mask != masks).sum() == 0, kind
        np.testing.assert_array_equal(labels, to_labels(mask, PRESETS["brats2021"]))
        dropped = (ours >= np.float32([p.threshold for p in POINTS])) & ~mask
        assert dropped[..., 2].any(), "no lesion was small"


def test_the_driver_is_short_and_of_numpy_and_jax_alone():
    text = Path(sliding_window.__file__).read_text()
    assert len(text.splitlines()) <= 60
    roots = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add(node.module.split(".")[0])
    assert roots - set(sys.stdlib_module_names) == {"numpy", "jax"}


def test_the_file_describes_itself(run, path, model):
    about, _ = model
    assert [r["name"] for r in about["regions"]] == list(NAMES)
    assert [(r["labels"], r["label"]) for r in about["regions"]] == [
        ([1, 2, 4], 2),
        ([1, 4], 1),
        ([4], 4),
    ]
    assert about["regions"][0]["threshold"] == 0.62 and about["regions"][0]["temperature"] == 1.5
    grid = about["window"]["spacing_mm"]
    assert about["window"] == {
        "size": [4, 12, 8],
        "overlap": 0.5,
        "sigma": 0.125,
        "spacing_mm": grid,
    }
    assert about["platforms"] == ["cpu", "cuda", "tpu"]
    assert about["channels"] == ["t1", "t1c", "t2", "flair"]
    assert about["inside"]["flip_averaging"] and about["use"].startswith("For research use only")
    assert set(about["programs"]) == {"scan", "model", "lesions"} | (
        {"to_grid", "from_grid"} if grid else set()
    )
    agreed = about["agreement"]
    assert agreed["patients"] == 1 and agreed["voxels"] == 0 and agreed["mask_dice"] == 1
    assert agreed["probability"] < ROUNDING
    with zipfile.ZipFile(path) as file:
        text = b"".join(file.read(name) for name in ("metadata.json", "README.txt")).decode()
        assert file.read("sliding_window.py") == Path(sliding_window.__file__).read_bytes()
    assert "BraTS20" not in text and str(run) not in text, "patients and paths stay at home"
    assert "tumour_core: probability >= 0.6; label 1." in text
    assert "parts below 40 mm3 dropped" in text


def test_a_patch_of_any_batch_gives_its_golden_vector(path, model):
    _, programs = model
    with np.load(zipfile.ZipFile(path).open("golden.npz"), allow_pickle=False) as golden:
        patch, stats = golden["patch"], golden["stats"]
        for count in (1, 3):
            found = programs["model"](np.repeat(patch, count, 0), stats)
            wanted = np.repeat(golden["patch_probability"], count, 0)
            np.testing.assert_allclose(found, wanted, atol=ROUNDING)
        depth = golden["volume"].shape[0]
    assert depth > patch.shape[1], "one window would do"


def test_verify_holds_the_driver_against_the_example(path, tmp_path, capsys):
    export.verify(path)
    assert "in 0 voxels" in capsys.readouterr().out
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "other", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "metadata.json":
                about = json.loads(content)
                about["window"]["sigma"] = 0.25
                content = json.dumps(about).encode()
            new.writestr(name, content)
    with pytest.raises(SystemExit):
        export.verify(tmp_path / "other")
    assert "do not use it" in capsys.readouterr().err


def test_a_difference_is_counted():
    ours = np.full((2, 3, 3, 2), 0.25, np.float32), np.zeros((2, 3, 3, 2), bool)
    theirs = ours[0].copy(), ours[1].copy()
    theirs[0][1, 0, 0, 1], theirs[1][1, 0, 0, 1] = 0.75, True
    assert differences(ours, theirs) == (2, 0.5, 1, 0.0)


def test_what_volumes_cannot_have_is_refused(run, tmp_path):
    for option in ("--format=onnx", "--size=8,8"):
        with pytest.raises(UserError, match=f"{option}: .*trained on volumes"):
            export.main(["--workdir", str(run), option, "--output", str(tmp_path / "x")])
    assert not list(tmp_path.iterdir())


def test_a_smallest_lesion_in_mm3_without_a_spacing_is_told_before_anything_is_computed(model):
    about, programs = model
    volume = scan(np.int16).image
    with pytest.raises(ValueError, match=r"^the smallest lesion kept is in mm3: give spacing_mm"):
        sliding_window.segment((about, dict.fromkeys(programs)), volume)
    with pytest.raises(UserError, match="smallest lesion kept is in mm3"):  # as jaxseg does
        segment_regions(np.zeros((2, 2, 2, 3)), POINTS, PRESETS["brats2021"])
    kept = sliding_window.segment(model, volume, voxel_mm3=1.5 * 0.9 * 0.9)[1]
    if not about["window"]["spacing_mm"]:  # a grid changes what is computed with a spacing
        expected = sliding_window.segment(model, volume, (1.5, 0.9, 0.9))[1]
        np.testing.assert_array_equal(kept, expected)
    voxels = [region | {"unit": "voxels"} for region in about["regions"]]
    assert sliding_window.segment((about | {"regions": voxels}, programs), volume)[1].any()
