"""The parts of the GPU check: what each runs, how long it may take, and in which order."""

import dataclasses
import json
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import gpu_results
from jaxseg.models import gpu

RESULTS = "results.jsonl"
COMMON = "common"  # the folder of compiled programs and of what the autotuner found

# Seconds of every pass of the compiler, and what the autotuner does, in the log.
_TALK = {
    "TF_CPP_MIN_LOG_LEVEL": "0",
    "TF_CPP_VMODULE": "hlo_pass_pipeline=1,autotuner=1,autotuner_pass=1,gpu_compiler=1",
}
_PASS = re.compile(r"HLO pass: (\S+) time: ([\d.]+) (us|ms|s|min)\b")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}


@dataclasses.dataclass
class Check:
    """Where everything lies and how large it is."""

    output: Path
    work: Path
    small: bool
    scans: Path | None  # folder kaggle_3m, or the file that `gpu_scans` packed
    end: float  # on time.monotonic's clock

    def results(self) -> list[dict[str, Any]]:
        """Return all results so far."""
        return gpu_results.read(self.output / RESULTS)

    def step(self, part: str, **settings: Any) -> "Run":
        """Return the run of a step; in small, of a tiny one."""
        if self.small:
            tiny = {"size": 16 if settings.get("volume") else 32, "batch": 2, "features": 4}
            settings |= tiny | {"levels": 2, "steps": 2, "rounds": 2}
        settings |= {"part": part, "started": time.time()}
        return Run(["benchmarks.gpu_step", json.dumps(settings)])

    def cache(self, name: str) -> str:
        """Return a folder of compiled programs."""
        folder = self.work / "compiled" / name
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)


@dataclasses.dataclass
class Run:
    """A process: module and arguments for `python -m`, and what its environment has more."""

    command: Sequence[str]
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Part:
    """Something to be found out."""

    name: str
    limit: float  # seconds
    run: Callable[[Check], Run]
    needs: float = 20  # not begun with less time left
    after: Callable[[Check, str], None] | None = None  # takes the log


def tuned_only(check: Check) -> Run:
    """Return a run that finds the autotuner's results of `step_32`, but no compiled program."""
    source, target = check.cache(COMMON), check.cache("tuned_only")
    for folder in Path(source).iterdir():
        if folder.is_dir():
            shutil.copytree(folder, Path(target) / folder.name, dirs_exist_ok=True)
    return check.step("step_32_tuned", cache=target)


def step(name: str, *names: str, **settings: Any) -> Callable[[Check], Run]:
    """Return the run of a step; the autotuner's results are shared.

    Args:
        name: of the part.
        names: of the operations for a GPU, or "plain"; without any what a GPU takes unasked.
        settings: of `gpu_step`.
    """

    def run(check: Check) -> Run:
        made = check.step(name, cache=check.cache(COMMON), **settings)
        # A CPU takes them only where they are asked for.
        chosen = names or (gpu.PARTS if check.small else ())
        asked = {gpu.VARIABLE: ",".join(chosen)} if chosen else {}
        return dataclasses.replace(made, environment=made.environment | asked)

    return run


def unpack(check: Check) -> Run:
    """Return the run that makes files of the packed scans."""
    if check.scans is None or check.scans.is_dir():
        return Run(["benchmarks.gpu_results"])  # nothing to do
    return Run(["benchmarks.gpu_scans", "unpack", str(check.scans), str(check.work / "kaggle_3m")])


def data(check: Check) -> list[str]:
    """Return the arguments that name config and scans: the phantom's where no scans are given."""
    if check.scans is None or check.small:
        return ["--config", "configs/unet.py"]
    folder = check.scans if check.scans.is_dir() else check.work / "kaggle_3m"
    return ["--config", "configs/lgg.py", f"--config.dataset.source={folder}"]


def training(check: Check) -> Run:
    """Return a short training, as a user starts it for the first time: nothing is compiled."""
    steps, each = (4, 2) if check.small else (1000, 250)
    train = [f"--config.train.num_steps={steps}", f"--config.train.eval_every_steps={each}"]
    if not check.small:  # one shape for training and the rest; a schedule for so few steps
        train += ["--config.evaluation.batch_size=32", "--config.optimizer.warmup_steps=100"]
        train += ["--config.optimizer.cosine=True", "--config.train.log_every_steps=50"]
    command = ["benchmarks.compilations", "jaxseg.train", *data(check), *train]
    environment = {"JAX_COMPILATION_CACHE_DIR": check.cache("training")}
    return Run([*command, "--workdir", str(check.work / "training")], environment)


def training_results(check: Check, log: str):
    """Write what the training has come to, also where it was not finished."""
    folder = check.work / "training"
    lines = gpu_results.read(folder / "metrics.jsonl")
    rates = [x["samples_per_second"] for x in lines if x.get("samples_per_second")]
    gpu_results.emit(
        "training",
        samples_per_second=[round(x, 1) for x in rates[-8:]],
        validation={x["step"]: x["validation_dice"] for x in lines if "validation_dice" in x},
        time_shares=[{k: v for k, v in x.items() if k.startswith("time_")} for x in lines][-1:],
    )
    scores = next(folder.glob("evaluation/test/scores.json"), None)
    if scores:
        patients = json.loads(scores.read_text())["patients"]
        gpu_results.emit("training", test_dice=patients["dice"], patients=patients["n"])
    for path in (folder / "metrics.jsonl", scores):
        if path and path.exists():
            shutil.copy(path, check.output / f"training_{path.name}")


def compiler_seconds(check: Check, log: str):
    """Write the seconds of the compiler's passes, from its own log."""
    seconds: dict[str, float] = {}
    for name, value, unit in _PASS.findall(log):
        seconds[name] = seconds.get(name, 0.0) + float(value) * _SECONDS[unit]
    ordered = sorted(seconds.items(), key=lambda item: -item[1])[:25]
    gpu_results.emit("step_32", passes={name: round(s, 2) for name, s in ordered if s >= 0.05})


def text(name: str) -> Callable[[Check, str], None]:
    """Return a function that writes what a part has printed as a result."""
    return lambda check, log: gpu_results.emit(name, text=log[-6000:].splitlines())


def torch_step(name: str, batch: int, *more: str) -> Callable[[Check], Run]:
    """Return the run of PyTorch's step."""
    full, tiny = ("256", str(batch), *more), ("64", "2", *more)
    return lambda check: Run(["benchmarks.gpu_torch", name, *(tiny if check.small else full)])


def talking(run: Callable[[Check], Run]) -> Callable[[Check], Run]:
    """Return the run with the compiler's own log."""

    def changed(check: Check) -> Run:
        made = run(check)
        return dataclasses.replace(made, environment=made.environment | _TALK)

    return changed


def parts() -> list[Part]:
    """Return all parts, the most important first."""
    patches: dict[str, Any] = {"volume": True, "size": 128, "batch": 2, "channels": 4}
    patches |= {"kernels": True}
    layers = Run(["benchmarks.gpu_layers"])
    small_layers = Run(["benchmarks.gpu_layers", "--small"])
    return [
        Part("facts", 60, lambda check: Run(["benchmarks.gpu_facts"])),
        Part("step_32", 120, talking(step("step_32", kernels=True)), after=compiler_seconds),
        Part("step_32_warm", 60, step("step_32_warm")),
        Part("step_32_tuned", 60, tuned_only),
        Part("torch_32", 90, torch_step("torch_32", 32)),
        Part("plain_32", 60, step("plain_32", "plain", kernels=True)),
        *(  # twice: the last loss tells whether the bits are the same
            Part(name, 60, step(name, deterministic=True))
            for name in ("deterministic_32", "deterministic_again_32")
        ),
        Part("scans", 40, unpack),
        Part(
            "input", 100, lambda c: Run(["benchmarks.input_stages", *data(c)]), after=text("input")
        ),
        Part("training", 180, training, 80, training_results),
        Part("step_128", 90, step("step_128", batch=128), 40),
        Part("torch_128", 90, torch_step("torch_128", 128)),
        Part("volume", 90, step("volume", **patches), 40),
        Part("plain_volume", 90, step("plain_volume", "plain", **patches), 40),
        Part("float32_32", 90, step("float32_32", dtype="float32"), 40),
        Part("torch_float32_32", 90, torch_step("torch_float32_32", 32, "float32")),
        *(Part(f"{name}_32", 60, step(f"{name}_32", name)) for name in gpu.PARTS),
        Part("layers", 110, lambda check: small_layers if check.small else layers),
    ]


SMALL = (  # rehearsed on a CPU, in CI: one of each kind
    *("facts", "step_32", "step_32_warm", "torch_32", "scans", "input", "training"),
    *("layers", "volume", "plain_32"),
)
