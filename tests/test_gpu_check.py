"""The check on a GPU, as far as it goes without one: limits, order, results, tables."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from fake_launch import is_alive

from benchmarks import compilations, gpu_check, gpu_fusions, gpu_plan, gpu_results, gpu_scans
from benchmarks.gpu_kernels import Kernel, by_kind, kind, largest
from benchmarks.protocol import ROOT
from jaxseg.models import gpu


@pytest.mark.parametrize(
    ("name", "operation", "what"),
    [
        ("sm80_xmma_wgrad_implicit_gemm_bf16", "cudnn-conv-bw-filter.3", "kernel gradient"),
        ("sm90_xmma_dgrad_implicit_gemm_bf16", "", "image gradient"),
        ("sm90_xmma_fprop_implicit_gemm_bf16", "", "forward"),
        ("engine_7", "cudnn-conv-bw-input.3", "image gradient"),
        ("implicit_convolve_sgemm", "cudnn-conv.3", "convolution, other"),
        ("void cudnn::nchwToNhwcKernel<float>", "cudnn-conv.3", "layout"),
        ("nvjet_hsh_128x64", "custom-call.1", "matrix products"),
        ("input_reduce_fusion_2", "", "reductions"),
        ("fusion_12", "input_reduce_fusion_12", "reductions"),
        ("loop_add_convert_fusion", "", "elementwise"),
        ("MemcpyD2D", "", "layout"),
        ("anything", "", "other"),
    ],
)
def test_kernels_are_told_apart(name, operation, what):
    assert what in kind(Kernel(name, operation, 1.0))


def test_kernels_are_added_up():
    spent = [Kernel("loop_fusion", "f.1", 0.002), Kernel("dgrad", "c", 0.004)] * 2
    assert by_kind(spent, 2) == {
        "convolution, image gradient": 0.004,
        "elementwise": 0.002,
        "all": 0.006,
    }
    rows = largest(spent, {"f.1": "UNet/up_0"}, 2, 5)
    assert rows[1] == [2.0, "elementwise", "loop_fusion", "f.1", "UNet/up_0"]


def test_results_of_a_killed_process_remain(tmp_path, monkeypatch):
    path = tmp_path / "results.jsonl"
    monkeypatch.setenv(gpu_results.VARIABLE, str(path))
    gpu_results.emit("a", ms=1.0)
    gpu_results.emit("a", ms=2.0, loss=3.0)
    with path.open("a") as file:
        file.write('{"part": "a", "ms"')
    found = gpu_results.read(path)
    assert gpu_results.merged(found, "a") == {"part": "a", "ms": 2.0, "loss": 3.0}


@pytest.fixture
def check(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setenv(gpu_results.VARIABLE, str(tmp_path / "out" / gpu_plan.RESULTS))
    end = time.monotonic() + 1000
    return gpu_plan.Check(tmp_path / "out", tmp_path / "work", True, None, end)


def script(tmp_path, name, text):
    """Return a part that runs a module of the test's own, found through PYTHONPATH."""
    (tmp_path / f"{name}.py").write_text(text)
    run = gpu_plan.Run([name], {"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    return gpu_plan.Part(name, 20, lambda check: run, 0)


def test_a_part_that_fails_or_hangs_leaves_its_results_and_its_log(check, tmp_path):
    emit = "from benchmarks.gpu_results import emit\n"
    good = script(tmp_path, "good", emit + "print('hello'); emit('good', ms=1)")
    bad = script(tmp_path, "bad", emit + "emit('bad', ms=2); raise ValueError('why')")
    hang = """import os, subprocess, time
child = subprocess.Popen(["sleep", "100"])
emit("hang", ms=3, child=child.pid)
time.sleep(100)
"""
    late = script(tmp_path, "hang", emit + hang)
    late = dataclasses.replace(late, limit=4)
    assert [gpu_check.execute(part, check) for part in (good, bad, late)] == [
        *("done", "failed", "late")
    ]
    found = check.results()
    assert [gpu_results.merged(found, n)["ms"] for n in ("good", "bad", "hang")] == [1, 2, 3]
    assert gpu_results.merged(found, "bad")["last_lines"][-1] == "ValueError: why"
    assert "hello" in (check.output / gpu_check.LOG).read_text()
    child, end = gpu_results.merged(found, "hang")["child"], time.monotonic() + 5
    while is_alive(child) and time.monotonic() < end:
        time.sleep(0.02)
    assert not is_alive(child)
    assert "hang: late" in gpu_results.summary(found)


def test_a_second_call_goes_on_and_time_is_kept(tmp_path, monkeypatch, capsys):
    made = [script(tmp_path, n, "") for n in ("one", "two", "three")]
    made[1] = dataclasses.replace(made[1], needs=1e6)
    monkeypatch.setattr(gpu_check, "parts", lambda: made)
    monkeypatch.setenv(gpu_results.VARIABLE, "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")  # both are set by main
    work = f"--work={tmp_path / 'work'}"
    assert gpu_check.main([f"--output={tmp_path / 'a'}", work]) == 0
    states = [(r["part"], r["status"]) for r in gpu_results.read(tmp_path / "a" / "results.jsonl")]
    assert states == [("one", "done"), ("two", "left out"), ("three", "done")]
    made[1] = dataclasses.replace(made[1], needs=0)
    assert gpu_check.main([f"--output={tmp_path / 'b'}", work]) == 0
    states = [(r["part"], r["status"]) for r in gpu_results.read(tmp_path / "b" / "results.jsonl")]
    assert states[2:] == [("three", "done"), ("two", "done")]


def test_seconds_of_the_compilers_passes_are_read_from_its_log(check):
    log = """I1126 hlo_pass_pipeline.cc:206] HLO pass: autotuner time: 1.5 s (1.5 s) (cumulative
I1126 hlo_pass_pipeline.cc:206] HLO pass: dce time: 90 ms (90 ms) (cumulative: 7 us, max: 7 us)
I1126 hlo_pass_pipeline.cc:206] HLO pass: autotuner time: 1 min (1 min) (cumulative
I1126 hlo_pass_pipeline.cc:206] HLO pass: cse time: 7 us (7 us)"""
    gpu_plan.compiler_seconds(check, log)
    assert check.results()[0]["passes"] == {"autotuner": 61.5, "dce": 0.09}


def test_every_part_can_be_asked_for(check):
    made = {part.name: part for part in gpu_plan.parts()}
    assert set(gpu_plan.SMALL) <= made.keys()
    check.small = False
    check.cache(gpu_plan.COMMON)
    for name, part in made.items():
        module = part.run(check).command[0]
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), name
    asked = {n: part.run(check).environment.get(gpu.VARIABLE) for n, part in made.items()}
    assert asked["step_128"] is None and asked["pool_32"] == "pool"
    assert asked["plain_32"] == asked["plain_volume"] == "plain"
    check.small = True
    assert made["step_32"].run(check).environment[gpu.VARIABLE] == "norm,pool,fold,head"
    spent = sum(part.limit for name, part in made.items() if name in list(made)[:6])
    assert spent < 660, "the most important parts, even if all reach their limits"


COMPILED = """HloModule step

fused {
  ROOT %add.1 = f32[64,32]{1,0} add(%a, %a)
}

ENTRY %main (x: f32[64,32], k: bf16[3,8]) -> f32[64,32] {
  %x = f32[64,32]{1,0} parameter(0)
  %k = bf16[3,8]{1,0} parameter(1)
  %loop = f32[64,32]{1,0} fusion(%x), kind=kLoop, calls=%fused, metadata={op_name="step/norm"}
  %corner = f32[1,1]{1,0} fusion(%x), kind=kLoop, calls=%fused
  %sums = (f32[32]{0}, f32[32]{0}) fusion(%loop, %x), kind=kInput, calls=%fused
  %own = (bf16[3,8]{1,0}, u8[100]{0}) custom-call(%k), custom_call_target="__cudnn$conv"
  ROOT %back = f32[64,32]{1,0} get-tuple-element(%sums), index=0
}
"""


def test_the_bytes_of_kernels_are_counted():
    found = gpu_fusions.kernels(COMPILED)
    assert [(k.name, k.bytes, k.kind) for k in found] == [
        ("sums", 2 * 64 * 32 * 4 + 2 * 32 * 4, "kInput"),
        ("loop", 2 * 64 * 32 * 4, "kLoop"),
        ("own", 2 * 24 * 2 + 100, "__cudnn$conv"),
        ("corner", 4 + 8 * 4, "kLoop"),  # a part of the images at most
    ]
    assert found[1].place == "step/norm"


def test_scans_travel_and_come_back(tmp_path):
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8), (64, 48))
    mask = np.zeros((48, 64), np.uint8)
    mask[5:20, 30:50] = 255
    patient = tmp_path / "scans" / "TCGA_CS_1_2"
    patient.mkdir(parents=True)
    cv2.imwrite(str(patient / "TCGA_CS_1_2_1.tif"), image)
    cv2.imwrite(str(patient / "TCGA_CS_1_2_1_mask.tif"), mask)
    gpu_scans.pack(tmp_path / "scans", tmp_path / "packed.zip")
    gpu_scans.unpack(tmp_path / "packed.zip", tmp_path / "back")
    back = tmp_path / "back" / patient.name
    found = cv2.imread(str(back / "TCGA_CS_1_2_1.tif"), cv2.IMREAD_UNCHANGED)
    assert found.shape == image.shape
    assert np.abs(found.astype(int) - image).mean() < 2
    same = cv2.imread(str(back / "TCGA_CS_1_2_1_mask.tif"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(same, mask)


def test_compilations_are_counted(tmp_path):
    program = """import jax, jax.numpy as jnp
def convolve(x, k):
    return jax.lax.conv_general_dilated(x, k, (1, 1), "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"))
x, k = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
print(jax.jit(lambda x, k: convolve(convolve(x, k), k))(x, k).shape)
"""
    (tmp_path / "counted.py").write_text(program)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "benchmarks.compilations", "counted"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["programs"] >= 1
    assert (found["convolutions"], found["distinct_convolutions"]) == (2, 1)
    assert compilations.summary([], {}, 1.0)["programs"] == 0


@pytest.mark.slow
def test_the_whole_check_in_small(tmp_path):
    """What CI can rehearse: every kind of part, without a GPU."""
    command = ["bash", "benchmarks/gpu_check.sh", "--small", "--output", tmp_path / "out"]
    environment = os.environ | {"PYTHON": sys.executable}
    environment.pop("XLA_FLAGS", None)  # those of the tests: eight devices
    done = subprocess.run(
        [*command, "--work", tmp_path / "work", "--minutes", "8"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = gpu_results.read(tmp_path / "out" / "results.jsonl")
    for name in gpu_plan.SMALL:
        if name != "torch_32":
            assert gpu_results.merged(found, name)["status"] == "done", name
    assert not [r for r in found if "error" in r]
    assert gpu_results.merged(found, "step_32")["kernels_ms"]["all"] > 0
    assert gpu_results.merged(found, "volume")["ms"] > 0
    assert "dice" in json.dumps(gpu_results.merged(found, "training"))
