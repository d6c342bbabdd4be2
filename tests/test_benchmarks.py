"""The benchmark's harness, with workers that do no work: protocol, turns, ratios, tables."""

import functools
import json
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from fake_launch import is_alive

from benchmarks import (
    environments,
    input_stages,
    machine,
    measure,
    peers,
    run,
    tables,
    timing,
    workload,
)
from benchmarks.profile_step import largest, places
from benchmarks.protocol import ROOT, Worker, WorkerFailed
from jaxseg.config import Config, Input, Model
from jaxseg.machine.sharding import make_mesh
from jaxseg.models.unet import UNet
from jaxseg.training.state import abstract_state

FAKE = [sys.executable, "-m", "tests.fake_worker"]


@pytest.fixture
def start(tmp_path):
    """Start fake workers that end with the test."""
    workers = []

    def start(timeout=120, **settings):
        log = tmp_path / f"{len(workers)}.log"
        workers.append(Worker(FAKE, settings, log, timeout=timeout))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


def test_a_worker_answers_and_what_libraries_print_is_in_its_log(start):
    worker = start(times=[0.25, 0.5])
    assert worker.hello["parameters"] == 7
    answer = {"seconds": 0.25, "cpu_seconds": 0.25, "loss": 1.5, "mean": 0.5}
    assert worker.ask("train") == answer
    assert worker.ask("train")["seconds"] == 0.5
    timed = worker.ask("wait")  # by the worker itself
    assert 0.05 <= timed["seconds"] < 5 and 0 <= timed["cpu_seconds"] <= timed["seconds"]
    assert worker.startup_seconds > 0
    assert (
        worker.log.read_text().splitlines()
        == ["a library says hello"] + ["a library says more"] * 2
    )


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("die", r"the worker died, exit code 3: the reason why"),
        ("kill", r"the worker died, signal 9 \(Killed\)"),
        ("unknown", r"KeyError: 'unknown'"),
    ],
)
def test_a_worker_that_ends_is_reported(start, action, message):
    worker = start(times=[])
    with pytest.raises(WorkerFailed, match=message):
        worker.ask(action)
    with pytest.raises(WorkerFailed, match="the worker died"):
        worker.ask("train")


def test_a_worker_that_hangs_is_killed(start):
    worker = start()
    worker.timeout = 0.2
    with pytest.raises(WorkerFailed, match=r"no answer within 0\.2 s"):
        worker.ask("hang")
    assert worker.process.wait(5) == -signal.SIGKILL


def test_a_worker_that_cannot_start_says_why_in_a_line(start):
    with pytest.raises(WorkerFailed, match="ImportError: no module of that name"):
        start(broken=True)


def test_nothing_of_a_worker_is_left(start):
    worker = start()
    child = worker.ask("child")["pid"]
    worker.close()
    end = time.monotonic() + 60
    while is_alive(child) and time.monotonic() < end:
        time.sleep(0.02)
    assert not is_alive(child)


def test_median_quartiles_and_ratios_by_hand():
    assert timing.spread([4.0, 1.0, 2.0, 3.0, 10.0]) == (3.0, 2.0, 4.0)
    assert timing.spread([1.0, 2.0]) == (1.5, 1.25, 1.75)
    # Round by round: 2/1, 6/3, 9/3. The ratio of the medians would be 6/3 as well, not so here:
    assert timing.ratios([2.0, 6.0, 9.0], [1.0, 3.0, 3.0]) == (2.0, 2.0, 2.5)
    assert timing.ratios([1.0, 8.0, 9.0], [1.0, 2.0, 9.0]).median == 1.0
    assert timing.ratios([2.0, 4.0, 5.0], [2.0]) == (1.0, 1.0, 1.0)


def test_workers_take_turns_and_one_that_dies_does_not_stop_the_others(start, tmp_path):
    order = tmp_path / "order"
    times = {"a": [0.1, 0.2, 0.3], "b": [0.4], "c": [0.7, 0.8, 0.9]}
    workers = {n: start(name=n, times=t, order=str(order)) for n, t in times.items()}
    answers, failed = timing.in_turn(workers, "train", 3)
    assert order.read_text().split() == ["a", "b", "c", "a", "b", "c", "a", "c"]
    assert [a["seconds"] for a in answers["c"]] == [0.7, 0.8, 0.9]
    assert failed == {"b": "the worker died, exit code 3: the reason why"}


def fake(name, **options):
    return peers.Implementation(
        name, name, "", (), "tests.fake_worker", ("train", "start"), {"name": name} | options
    )


def test_a_run_prints_the_table_and_writes_everything(monkeypatch, tmp_path, capsys):
    warm_up = [9.0, 1.0]
    made = (
        fake("jaxseg", times=[*warm_up, 2.0, 3.0]),
        fake("peer", times=[*warm_up, 1.0, 2.0]),
        fake("dying", times=[1.0, 1.0, 1.0]),
        fake("broken", broken=True),
    )
    monkeypatch.setattr(peers, "IMPLEMENTATIONS", made)
    output = tmp_path / "made" / "b.json"
    options = run.parse(["--sizes=64", "--batch=4", "--rounds=2", f"--output={output}"])
    options.only, options.peers = ["train"], ["peer", "dying", "broken"]
    run.measure_all(options)
    table = capsys.readouterr().out
    rows = [line.split() for line in table.splitlines()]
    # Ratios round by round: 2/1 and 3/2. 4 images of 0.285 GFLOP in 2.5 s.
    jaxseg = "jaxseg 2.5 2.25 to 2.75 1.75 1.62 to 1.88 1.6 0.456 2.00 GB 0.25 7.0 s 7 1.50000"
    peer = "peer 1.5 1.25 to 1.75 1.00 1.00 to 1.00 2.67 0.761 2.00 GB 0.25 8.0 s 7 1.50000"
    assert rows.index(peer.split()) < rows.index(jaxseg.split()), "the fastest comes first"
    assert "dying: no result: the worker died, exit code 3: the reason why" in table
    assert "broken: no result: ImportError: no module of that name" in table
    written = json.loads(output.read_text())
    (result,) = written["results"]
    assert result["implementations"]["jaxseg"]["seconds"] == [2.0, 3.0]
    assert result["implementations"]["jaxseg"]["first"]["loss"] == 1.5
    assert set(result["failed"]) == {"dying", "broken"}
    assert written["machine"]["cores"] >= 1
    assert not list(output.parent.glob("*.part"))


def test_start_is_measured_with_and_without_compiled_programs(tmp_path, monkeypatch):
    one = fake("jaxseg", times=[5.0, 1.0])
    work = measure.Work("start", 64, 4)
    options = run.parse(["--rounds=2"])
    pythons = {"jaxseg": sys.executable}
    result = measure.measure(work, [one], pythons, options, tmp_path, lambda text: None)
    found = result["implementations"]["jaxseg"]
    assert len(found["cold"]) == len(found["warm"]) == 2
    for answer in found["cold"] + found["warm"]:
        assert answer["compile_seconds"] == 4.0
        assert answer["seconds"] > 5.0  # the process's start and the first step
    text = tables.result_text(result, "jaxseg")
    assert "compile, warm" in text and "4.0 s" in text


def test_a_worker_that_would_not_fit_into_memory_is_left_out(tmp_path, monkeypatch):
    free = iter([10e9, 4e9, 4e9, 4e9])
    monkeypatch.setattr(machine, "free_bytes", lambda: next(free))
    pair = [fake(name, times=[1.0] * 4) for name in ("first", "second")]
    pythons = dict.fromkeys(("first", "second"), sys.executable)
    options, work = run.parse(["--rounds=1"]), measure.Work("train", 64, 4)
    result = measure.measure(work, pair, pythons, options, tmp_path, lambda text: None)
    assert set(result["implementations"]) == {"first"}
    assert "4.0 GB" in result["failed"]["second"] and "--alone" in result["failed"]["second"]


def test_alone_only_one_process_lives_at_a_time(tmp_path):
    order = tmp_path / "order"
    pair = [fake(name, times=[1.0] * 4, order=str(order)) for name in ("a", "b")]
    pythons = dict.fromkeys(("a", "b"), sys.executable)
    options, work = run.parse(["--rounds=2", "--alone"]), measure.Work("train", 64, 4)
    result = measure.measure(work, pair, pythons, options, tmp_path / "x", lambda text: None)
    assert order.read_text().split() == ["a"] * 4 + ["b"] * 4
    assert "one after the other" in tables.heading(result, "a")


def test_empty_columns_are_left_out():
    rows = [["", "s", "empty", "place"], ["one", "1.0", "", "here"], ["three", "10.0", "", "x"]]
    assert tables.columns(rows, left=(0, 3)) == [
        "          s  place",
        "one     1.0  here",
        "three  10.0  x",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers=pytorch,flax"], "flax: choose of albumentations, "),
        (["--only=training"], "training: choose of "),
        (["--sizes=256,0"], "give whole numbers from 1 on"),
        (["--batch=x"], "give whole numbers from 1 on"),
        (["--sizes=100"], "sizes must be multiples of 16"),
        (["--volume-sizes=72"], "sizes must be multiples of 16"),
        (["--rounds=0"], "give whole numbers from 1 on"),
        (["--output=/proc/no/such.json"], "--output /proc/no/such.json: cannot be written"),
    ],
)
def test_a_wrong_option_is_a_line_and_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        run.parse(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_what_is_measured_follows_the_options():
    options = run.parse(["--only=train,forward,input", "--sizes=256,128", "--batch=4,16"])
    works = run.works(options)
    assert [(w.size, w.batch) for w in works if w.task == "train"] == [
        *((256, 4), (256, 16)),
        *((128, 4), (128, 16)),
    ]
    assert [w.batch for w in works if w.task == "forward" and w.size == 128] == [1, 8]
    assert {w.task for w in works} == {"train", "forward", "input"}
    options = run.parse(["--only=volumes", "--volume-sizes=64", "--volume-features=16,32"])
    works = [(w.size, w.features, w.batch) for w in run.works(options)]
    assert works == [(64, 16, 1), (64, 16, 2), (64, 32, 1), (64, 32, 2)]
    names = [i.name for i in peers.select("train", ["pytorch"])]
    assert names == ["jaxseg", "pytorch_channels_last", "pytorch_contiguous", "pytorch_compile"]
    assert [i.name for i in peers.select("train", ["pytorch_compile"])] == [
        "jaxseg",
        "pytorch_compile",
    ]
    for task in run.TASKS:
        chosen = [i.name for i in peers.select(task, peers.PEERS)]
        assert len(chosen) == len(set(chosen)) and chosen[0] == "jaxseg"


def test_environments_install_what_is_missing_and_tell_what_fails(tmp_path, capsys):
    """A stand-in for the environment's Python: has one of two packages, and a pip that fails."""
    python = tmp_path / "torch" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f"""#!/bin/sh
echo "$@" >> {tmp_path}/calls
case "$1" in
  -c) [ -e {tmp_path}/installed ] || echo monai ;;
  -m) [ "$5" = monai ] && [ -e {tmp_path}/network ] || {{
        echo "ERROR: No matching distribution found for monai" >&2; exit 1; }}
      touch {tmp_path}/installed ;;
esac
"""
    )
    python.chmod(0o755)
    with pytest.raises(environments.NotInstalled, match="No matching distribution found for monai"):
        environments.ensure(tmp_path / "torch", ("torch", "monai"))
    (tmp_path / "network").touch()
    assert environments.ensure(tmp_path / "torch", ("torch", "monai")) == python
    calls = (tmp_path / "calls").read_text().count("-m pip")
    environments.ensure(tmp_path / "torch", ("torch", "monai"))
    assert (tmp_path / "calls").read_text().count("-m pip") == calls == 2


def test_the_names_of_installed_packages_are_compared_as_pip_does():
    found = environments._run(
        [sys.executable, "-c", environments._MISSING, "numpy", "ml-dtypes", "no-such-thing"]
    )
    assert found.split() == ["no-such-thing"]


@pytest.mark.parametrize(("size", "parameters"), [(256, 7_763_041), (128, 1_942_577)])
def test_the_common_weights_are_those_of_jaxseg(size, parameters):
    features = size // 8
    weights = workload.make_weights(features)
    assert sum(x.size for x in weights.values()) == parameters
    config = Config(
        model=Model(widths=workload.widths(features)), input=Input(image_size=(size, size))
    )
    params = abstract_state(config, 3, make_mesh()).weights.params
    shapes = {
        "/".join(key.key for key in path): x.shape
        for path, x in jax.tree_util.tree_leaves_with_path(params)
    }
    assert {name: x.shape for name, x in weights.items()} == shapes


def test_the_common_weights_of_volumes_are_those_of_jaxseg():
    kind = workload.VOLUMES
    weights = workload.make_weights(8, kind)
    model = UNet(Model(widths=workload.widths(8), num_classes=kind.regions, norm=kind.norm))
    volume = jax.ShapeDtypeStruct((1, *(16,) * kind.rank, kind.channels), np.float32)
    make = functools.partial(model.init, train=False)
    params = jax.eval_shape(make, jax.random.key(0), volume)["params"]
    shapes = {
        "/".join(key.key for key in path): x.shape
        for path, x in jax.tree_util.tree_leaves_with_path(params)
    }
    assert {name: x.shape for name, x in weights.items()} == shapes


def test_regions_of_the_common_volumes_lie_within_one_another():
    image, mask = workload.make_batch(5, 32, workload.VOLUMES)
    assert image.shape == (5, 32, 32, 32, 4) and image.dtype == np.float32
    sides = np.cbrt(mask.sum((1, 2, 3)))
    np.testing.assert_allclose(sides, [[8, 6, 4]] * 3 + [[0] * 3, [8, 6, 4]], rtol=1e-6)
    assert (mask[..., 0] >= mask[..., 1]).all() and (mask[..., 1] >= mask[..., 2]).all()


def test_operations_of_a_step():
    """24.1 and 72.3 GFLOP, as counted layer by layer for the network at 256 pixels."""
    forward, train = workload.flops(32, 256)
    assert forward == pytest.approx(24.1e9, rel=2e-3)
    assert train == pytest.approx(72.3e9, rel=2e-3)
    assert measure.Work("train", 256, 4).flops == 4 * train
    # By level: 15.4, 8.2, 4.1, 2.0 and 0.3 GFLOP forward, up-sampling 0.5; three times, less 0.9.
    volumes = measure.Work("volumes", 64, 2, width=16)
    assert volumes.features == 16
    assert volumes.flops == pytest.approx(2 * 90.7e9, rel=2e-3)


def test_the_profile_names_the_most_expensive_operations_and_their_place():
    hlo = """
  %fusion.1 = f32[2]{0} fusion(%p), kind=kLoop, metadata={op_name="jit(step)/UNet/up_0/add" x=1}
  ROOT dot.2 = f32[2]{0} dot(%a, %b), metadata={op_name="jit(step)/UNet/down_0/dot_general"}
"""
    assert places(hlo) == {"fusion.1": "UNet/up_0/add", "dot.2": "UNet/down_0/dot_general"}
    spent = [("dot.2", 0.004), ("fusion.1", 0.001), ("dot.2", 0.002), ("copy", 0.001)]
    assert largest(spent, places(hlo), steps=2, count=2) == [
        ["operation", "ms per step", "share", "place"],
        ["dot.2", "3.00", "75.0 %", "UNet/down_0/dot_general"],
        ["fusion.1", "0.50", "12.5 %", "UNet/up_0/add"],
    ]


def test_help_and_imports_of_the_driver_leave_jax_alone():
    """The driver must not set the flags that jaxseg sets for its own process only."""
    program = "import sys, benchmarks.run; assert not {'jax', 'jaxseg'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
    command = [sys.executable, "-m", "benchmarks.run", "--help"]
    shown = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert "--peers" in shown and "--alone" in shown


def test_stages_of_the_input_are_those_of_a_batch():
    rng = np.random.default_rng(0)
    record = {
        "image": rng.integers(0, 256, (32, 32, 3)).astype(np.uint8),
        "mask": np.ones((32, 32, 1), np.uint8),
        "stats": np.array([[0, 255, 128, 50]] * 3, np.float32),
        "head_box": np.array([0, 0, 32, 32]),
    }
    config = Config(input=Input(image_size=(16, 16)))
    made = input_stages.stages(config, [record], np.zeros(input_stages.SLICES, int))
    assert made["all of a slice as drawn"](0)["image"].shape == (16, 16, 3)
    assert made["warp"](0)[0].shape == made["intensities as drawn"](0).shape == (16, 16, 3)
    seconds = input_stages.milliseconds(made)
    assert seconds.keys() == made.keys() and min(seconds.values()) > 0
