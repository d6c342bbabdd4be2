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

# XLA's flags for a GPU that may shorten the compilation, by the name of the part.
FLAGS = {
    "step_32": "",  # the defaults
    "no_autotuning": "--xla_gpu_autotune_level=0",
    "no_fusion_autotuning": "--xla_gpu_experimental_enable_fusion_autotuner=false",
    "unchecked_autotuning": "--xla_gpu_autotune_level=1",
    "no_triton": "--xla_gpu_enable_triton_gemm=false",
    "convolutions_only": "--xla_gpu_experimental_autotune_backends=CUDNN",
    "few_candidates": "--xla_gpu_blas_max_algorithms=8 --xla_gpu_fusion_autotune_top_k_configs=1",
    "parallel_16": "--xla_gpu_force_compilation_parallelism=16",
    "kernel_cache": "",
}
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

    def step(self, part: str, flags: str = "", module: str = "gpu_step", **settings: Any) -> "Run":
        """Return the run of a step; in small, of a tiny one."""
        if self.small:
            tiny = {"size": 16 if settings.get("volume") else 32, "batch": 2, "features": 4}
            settings |= tiny | {"levels": 2, "steps": 2, "rounds": 2}
            flags = ""  # a CPU has its own, which jaxseg sets
        settings |= {"part": part, "started": time.time()}
        environment = {"XLA_FLAGS": flags} if flags else {}
        return Run([f"benchmarks.{module}", json.dumps(settings)], environment)

    def cache(self, name: str) -> str:
        """Return a folder of compiled programs."""
        folder = self.work / "compiled" / name
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    def best(self) -> tuple[str, str]:
        """Return name and flags that compile fastest at a step time within 5 % of the best."""
        found = {name: gpu_results.merged(self.results(), name) for name in FLAGS}
        timed = {name: r for name, r in found.items() if "ms" in r}
        if not timed:
            return "step_32", FLAGS["step_32"]
        limit = 1.05 * min(r["ms"] for r in timed.values())
        good = [name for name, r in timed.items() if r["ms"] <= limit]
        name = min(good, key=lambda name: timed[name]["compile_seconds"])
        return name, FLAGS[name]


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
    source, target = check.cache("step_32"), check.cache("step_32_tuned")
    for folder in Path(source).iterdir():
        if folder.is_dir():
            shutil.copytree(folder, Path(target) / folder.name, dirs_exist_ok=True)
    return check.step("step_32_tuned", cache=target)


def flagged(name: str, **settings: Any) -> Callable[[Check], Run]:
    """Return the run of the step at batch 32 with a set of flags, from nothing."""
    return lambda check: check.step(name, FLAGS[name], cache=check.cache(name), **settings)


def best_step(
    name: str, environment: dict[str, str] | None = None, **settings: Any
) -> Callable[[Check], Run]:
    """Return the run of a step with the best flags known; autotuning results are shared.

    Args:
        name: of the part.
        environment: more of it, for a switch of jaxseg's own.
        settings: of `gpu_step`.
    """

    def run(check: Check) -> Run:
        known, flags = check.best()
        gpu_results.emit(name, flags_of=known)
        made = check.step(name, flags, cache=check.cache(known), **settings)
        return dataclasses.replace(made, environment=made.environment | (environment or {}))

    return run


def with_parts(*names: str) -> dict[str, str]:
    """Return the environment that asks for operations for a GPU; without names for all of them."""
    return {gpu.VARIABLE: ",".join(names or gpu.PARTS)}


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
    """Return a short training, with the best flags known and the autotuner's results."""
    known, flags = check.best()
    steps, each = (4, 2) if check.small else (1000, 250)
    train = [f"--config.train.num_steps={steps}", f"--config.train.eval_every_steps={each}"]
    if not check.small:  # one shape for training and the rest; a schedule for so few steps
        train += ["--config.evaluation.batch_size=32", "--config.optimizer.warmup_steps=100"]
        train += ["--config.optimizer.cosine=True", "--config.train.log_every_steps=50"]
    command = ["benchmarks.compilations", "jaxseg.train", *data(check), *train]
    environment = {"JAX_COMPILATION_CACHE_DIR": check.cache(known)}
    if flags and not check.small:
        environment["XLA_FLAGS"] = flags
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


def torch_step(name: str, batch: int) -> Callable[[Check], Run]:
    """Return the run of PyTorch's step."""
    full, tiny = ("256", str(batch)), ("64", "2")
    return lambda check: Run(["benchmarks.gpu_torch", name, *(tiny if check.small else full)])


def talking(run: Callable[[Check], Run]) -> Callable[[Check], Run]:
    """Return the run with the compiler's own log."""

    def changed(check: Check) -> Run:
        made = run(check)
        return dataclasses.replace(made, environment=made.environment | _TALK)

    return changed


def parts() -> list[Part]:
    """Return all parts, the most important first."""
    shallow: dict[str, Any] = {"levels": 2, "compile_only": True}
    patches: dict[str, Any] = {"volume": True, "size": 128, "batch": 2, "channels": 4}
    step_32 = talking(flagged("step_32", kernels=True))
    layers = Run(["benchmarks.gpu_layers"])
    small_layers = Run(["benchmarks.gpu_layers", "--small"])
    return [
        Part("facts", 60, lambda check: Run(["benchmarks.gpu_facts"])),
        Part("step_32", 220, step_32, after=compiler_seconds),
        Part("step_32_warm", 60, lambda c: c.step("step_32_warm", cache=c.cache("step_32"))),
        Part("step_32_tuned", 130, tuned_only),
        Part("no_autotuning", 90, flagged("no_autotuning")),
        Part("torch_32", 90, torch_step("torch_32", 32)),
        Part("plain_32", 60, best_step("plain_32")),
        Part("all_parts_32", 110, best_step("all_parts_32", with_parts(), kernels=True)),
        Part("scans", 40, unpack),
        Part(
            "input", 100, lambda c: Run(["benchmarks.input_stages", *data(c)]), after=text("input")
        ),
        Part("training", 190, training, 100, training_results),
        Part("step_128", 130, best_step("step_128", batch=128, kernels=True), 40),
        Part("all_parts_128", 130, best_step("all_parts_128", with_parts(), batch=128), 40),
        Part("volume", 150, best_step("volume", **patches), 40),
        Part("all_parts_volume", 150, best_step("all_parts_volume", with_parts(), **patches), 40),
        Part("norm_volume", 100, best_step("norm_volume", with_parts("norm"), **patches), 40),
        *(
            Part(name, 100, best_step(name, with_parts(*name.split("_")[:-1])))
            for name in ("norm_32", "norm_sums_32", "pool_32", "channels_32")
        ),
        Part("no_fusion_autotuning", 110, flagged("no_fusion_autotuning")),
        Part("layers", 110, lambda check: small_layers if check.small else layers),
        Part(
            "shallow", 80, lambda c: c.step("shallow", passes=True, cache=c.cache("s"), **shallow)
        ),
        Part("torch_128", 90, torch_step("torch_128", 128)),
        Part("fast_variance", 100, best_step("fast_variance", fast_variance=True)),
        Part("channels_8", 100, best_step("channels_8", channels=8)),
        *(
            Part(name, 60, flagged(name, **shallow))
            for name in ("unchecked_autotuning", "no_triton", "convolutions_only", "parallel_16")
        ),
        Part("kernel_cache", 60, flagged("kernel_cache", xla_caches="all", **shallow)),
        Part("few_candidates", 60, flagged("few_candidates", **shallow)),
        Part("float32_32", 120, best_step("float32_32", dtype="float32"), 40),
    ]


SMALL = (  # rehearsed on a CPU, in CI: one of each kind
    *("facts", "step_32", "step_32_warm", "torch_32", "scans", "input", "training"),
    *("layers", "volume", "all_parts_32"),
)
