"""Train, test and draw: python -m jaxseg.train --config configs/unet.py [--workdir DIR].

  --config FILE            a Python file with get_config(), see configs/
  --workdir DIR            folder of the run; default runs/NAME-OF-THE-CONFIG-FILE
  --config.SECTION.NAME=V  any setting, by example --config.train.num_steps=100

The same command again continues an interrupted run; a finished one says so. Ctrl-C, SIGTERM
or train.max_minutes saves first and exits with 0, as a run that has ended does; 1 when
training failed, 2 with what to mend. After the training the operating point is chosen on the
validation patients and the test patients are scored; there a signal ends the program at once,
and the same command does what is left. Several processes: see launch/README.md.
"""

import contextlib
import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags

from jaxseg import checkpoint, cli, locks, native, threshold_baseline, workdir
from jaxseg.compile_cache import keep_compiled_programs
from jaxseg.config import Config
from jaxseg.control import should_stop
from jaxseg.data import training_batches
from jaxseg.datasets import Patient, Prepared, fingerprint, prepare, split_patients
from jaxseg.distributed import (
    check_same,
    failing_together,
    gather,
    is_main,
    join,
    on_main,
    together,
)
from jaxseg.evaluate import Part, evaluate
from jaxseg.inference import make_model
from jaxseg.profiler import Profile
from jaxseg.progress import Progress
from jaxseg.settings import describe, to_json
from jaxseg.sharding import check_fits, make_mesh, to_global, whole_arrays
from jaxseg.signals import REASONS, StopRequests
from jaxseg.state import abstract_state, best_weights, new_state
from jaxseg.steps import jit_observe, jit_train_step
from jaxseg.tuning import tuned_point
from jaxseg.validation import Validation

Splits = dict[str, tuple[Patient, ...]]


def train(config: Config, run: Path, prepared: Prepared, splits: Splits) -> str:
    """Train until the last step, an early stop or a request; continue what is in the folder.

    Args:
        config: all settings.
        run: the workdir, claimed.
        prepared: the data set.
        splits: its patients; train and validation are used.

    Returns:
        What interrupted the run, one of `signals.REASONS`; '' when it is complete.

    Raises:
        TrainingFailed: too many updates in a row had a non-finite loss or gradient.
    """
    mesh, num_steps = make_mesh(config.mesh), config.train.num_steps
    abstract = abstract_state(config, prepared.num_channels, mesh)
    train_step, observe = jit_train_step(config, abstract, mesh), jit_observe(config, abstract)
    validation = Validation(config, prepared, splits["validation"], mesh)
    with (
        checkpoint.open_checkpoints(run, config.train.keep_every_steps) as checkpoints,
        StopRequests(config.train.max_minutes) as requests,
        failing_together(),  # innermost: to close the checkpoints is to wait for the others
    ):
        state = checkpoint.restore_latest(checkpoints, abstract)
        state = state or new_state(config, prepared.num_channels, mesh)
        # The only reads of the state that wait for the device; from here the host counts.
        step, stopped = int(state.step), should_stop(state.early_stop, config.early_stop)
        batches = training_batches(
            prepared, splits["train"], config, step, jax.process_index(), jax.process_count()
        )
        saved = step
        # Whenever we save, state.step == step == batches consumed, and plateau and early stop
        # have seen every evaluation up to it. Hence the order: step, evaluate, observe, save.
        with Progress(run, step, config.train) as progress, Profile(run, config.profile) as profile:
            while step < num_steps and not stopped and not progress.stop:
                profile.before(step + 1, state)
                batch = to_global(progress.next_batch(batches, requests.vote), mesh)
                with jax.profiler.StepTraceAnnotation("train", step_num=step + 1):
                    state, metrics = train_step(state, batch)
                step += 1
                progress.step(step, metrics)
                if step % config.train.eval_every_steps and step != num_steps:
                    continue
                progress.catch_up(step)
                with progress.away("evaluation"):
                    result = validation.scores(best_weights(state))
                    state = observe(state, np.float32(monitored(result, config)))
                # On record first: killed in between, the run records it again.
                progress.evaluation(step, result, state)
                with progress.away("saving"):
                    checkpoint.save(checkpoints, step, state, monitored(result, config))
                saved, stopped = step, should_stop(state.early_stop, config.early_stop)
                if progress.wants_pictures:
                    progress.pictures(step, validation.pictures(best_weights(state)))
            progress.catch_up(step)
        if step > saved:
            checkpoint.save(checkpoints, step, state, None)
        stop = max(progress.stop, *gather(requests.vote))
    return interruption(stop, complete=stopped or step == num_steps)


def interruption(stop: int, complete: bool) -> str:
    """Return the reason of a vote; a time limit does not keep a complete run from its scores."""
    time_limit = REASONS.index("train.max_minutes")
    return "" if complete and stop <= time_limit else REASONS[stop]


def monitored(result: dict[str, float], config: Config) -> float:
    """Return the watched validation value, larger is better; -inf when it is not finite."""
    dice = config.train.monitor == "dice"
    value = result["validation_dice"] if dice else -result["validation_loss"]
    return value if math.isfinite(value) else -math.inf


def say_set_up(config: Config, prepared: Prepared, splits: Splits):
    """Print the data set's warnings, the size of each split, and the devices."""
    for warning in prepared.warnings:
        print(f"warning: {warning}")
    for name, patients in splits.items():
        tumour = sum(t > 0 for p in patients for t in p.tumour_pixels)
        slices = sum(p.num_slices for p in patients)
        print(f"{name:<10} {len(patients):>4} patients {slices:>6} slices, {tumour} with tumour")
    mesh = make_mesh(config.mesh)
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1)
    hosts = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
    print(
        f"devices: {mesh.size} x {mesh.devices.flat[0].device_kind}{hosts} {axes and f'({axes})'}"
    )
    if mesh.size == 1 and jax.default_backend() == "cpu" and native.problem():
        print(f"note: slower without jaxseg's own convolutions: {native.problem()}")
    state = abstract_state(config, prepared.num_channels, mesh)
    for array in whole_arrays(state, mesh, config.mesh.fsdp_min_size):
        print(f"not split over fsdp, no axis divides: {array}")
    sys.stdout.flush()


def set_up(
    config: Config, run: Path, stack: contextlib.ExitStack
) -> tuple[Prepared, Splits] | None:
    """Check config, devices and data, and claim the workdir; None when the run is finished."""
    together(lambda: check_fits(config, make_mesh(config.mesh)))
    check_same("settings", to_json(config))
    prepared = together(lambda: prepare(config.dataset, config.split))
    check_same("scans", fingerprint(prepared.patients))
    splits = together(lambda: split_patients(prepared.patients, config.split))
    lock = locks.hold(run / "lock", f"--workdir {run}")
    on_main(lambda: stack.enter_context(lock))
    holder = on_main(lambda: (run / "lock").read_text())
    together(lambda: workdir.check_shared(run / "lock", holder))
    on_main(lambda: workdir.claim(run, config, prepared.num_channels, splits))
    if on_main(lambda: workdir.is_finished(run)):
        return None
    say_set_up(config, prepared, splits)
    return prepared, splits


def main(argv: Sequence[str]):
    """Run the program; see the top of the file."""
    flags.DEFINE_string("workdir", None, "folder of the run")
    config, name = cli.parse_config(argv, __doc__)
    if config.dataset.source:  # so that evaluate finds it from any folder
        source = str(Path(config.dataset.source).expanduser().absolute())
        dataset = dataclasses.replace(config.dataset, source=source)
        config = dataclasses.replace(config, dataset=dataset)
    run = Path(flags.FLAGS.workdir or Path("runs") / name).expanduser()
    join()
    keep_compiled_programs()
    with failing_together(), contextlib.ExitStack() as stack:
        train_and_test(config, run, stack)


def train_and_test(config: Config, run: Path, stack: contextlib.ExitStack):
    """Train, tune on validation, score on the test patients; the stack holds the workdir."""
    print(describe(config), f"\nworkdir: {run}", sep="\n", flush=True)
    data = set_up(config, run, stack)
    output = run / "evaluation" / "test"
    if data is None:
        print(f"{run} is finished; its report: {output / 'report.html'}")
        return
    prepared, splits = data
    if is_main() and not (run / "baseline.json").exists():
        threshold_baseline.find(run, prepared, splits["train"])
    reason = train(config, run, prepared, splits)
    if reason:
        print(f"{reason}: saved in {run}; the same command continues from there")
        return
    best_step, weights = checkpoint.load_best(run, config, prepared.num_channels)
    note = f"Weights of step {best_step} of {run}, best by validation {config.train.monitor}."
    title = f"{config.dataset.name}: test ({len(splits['test'])} patients)"
    print(f"\nTraining is complete. {note}\n", flush=True)
    about = {"split": "test", "source": config.dataset.source, "step": best_step}
    model = make_model(config, weights)
    point = tuned_point(run, model, prepared, splits["validation"], best_step)
    part = Part(run, model._replace(temperature=point.temperature), point, splits["test"])
    evaluate(config, [part], prepared, output, title, about, [note])
    on_main(lambda: workdir.mark_finished(run, best_step))


if __name__ == "__main__":
    cli.run(main)
