"""The real LGG scans, where they are present: prepare, train a few steps, evaluate."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENTS = ("CS_4942_19970222", "CS_4943_20000902", "HT_7602_19951103", "HT_7686_19950629")


def test_a_short_run_on_real_scans(lgg_source, tmp_path):
    source = tmp_path / "kaggle_3m"
    for patient in PATIENTS:
        shutil.copytree(lgg_source / f"TCGA_{patient}", source / f"TCGA_{patient}")
    ids = [f"TCGA_{p.rsplit('_', 1)[0]}" for p in PATIENTS]
    run = tmp_path / "run"
    settings = {
        "dataset.source": source,
        "dataset.cache_dir": tmp_path / "cache",
        "split.train": (ids[0], ids[1]),
        "split.validation": (ids[2],),
        "split.test": (ids[3],),
        "input.image_size": (32, 32),
        "model.widths": (4, 8),
        "train.num_steps": 12,
        "train.eval_every_steps": 6,
        "train.log_every_steps": 2,
        "optimizer.warmup_steps": 2,
    }
    command = [sys.executable, "-m", "jaxseg.train", "--config", ROOT / "configs/lgg_cpu.py"]
    command += ["--workdir", run] + [f"--config.{k}={v}" for k, v in settings.items()]
    devices = "--xla_force_host_platform_device_count=2"  # quicker on two cores than eight
    flags = f"--xla_backend_optimization_level=0 {devices}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    scores = json.loads((run / "evaluation/test/scores.json").read_text())
    assert scores["slices"]["n"] == 20
    # The native masks of the patient on the test side, counted independently of jaxseg.
    import cv2

    masks = [cv2.imread(str(p), 0) for p in source.glob(f"{ids[3]}_*/*_mask.tif")]
    with (run / "evaluation/test/patients.csv").open() as file:
        header, row = (line.strip().split(",") for line in file)
    values = dict(zip(header, row, strict=True))
    assert int(values["truth_voxels"]) == sum(int((mask > 0).sum()) for mask in masks)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [r["train_loss"] for r in records if "train_loss" in r]
    assert losses[-1] < losses[0]
