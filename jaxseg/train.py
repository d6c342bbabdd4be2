"""Train, test and draw: python -m jaxseg.train --config configs/unet.py [--workdir DIR].

  --config FILE            a Python file with get_config(), see configs/
  --workdir DIR            folder of the run; default runs/NAME-OF-THE-CONFIG-FILE
  --config.SECTION.NAME=V  any setting, by example --config.train.num_steps=100

The same command again continues an interrupted run; a finished one says so. Ctrl-C or
SIGTERM saves first and exits with 0, as a run that has ended does; 1 when training failed, 2
with what to mend.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags

from jaxseg import checkpoint, cli, workdir
from jaxseg.config import Config
from jaxseg.control import should_stop
from jaxseg.data import training_batches
from jaxseg.datasets import Patient, Prepared, prepare, split_patients
from jaxseg.evaluate import evaluate, find_threshold_baseline
from jaxseg.progress import Progress
from jaxseg.settings import describe
from jaxseg.sharding import check_batch_size, make_mesh, to_global
from jaxseg.signals import StopSignals
from jaxseg.state import best_weights, new_state
from jaxseg.steps import jit_observe, jit_train_step
from jaxseg.validation import Validation

Splits = dict[str, tuple[Patient, ...]]


def train(config: Config, run: Path, prepared: Prepared, splits: Splits) -> str | None:
    """Train until the last step, an early stop or a signal; continue what is in the folder.

    Args:
        config: all settings.
        run: the workdir, claimed.
        prepared: the data set.
        splits: its patients; train and validation are used.

    Returns:
        The name of the signal that interrupted the run, or None when it is complete.

    Raises:
        TrainingFailed: too many updates in a row had a non-finite loss or gradient.
    """
    mesh, num_steps = make_mesh(), config.train.num_steps
    train_step, observe = jit_train_step(config, mesh), jit_observe(config)
    validation = Validation(config, prepared, splits["validation"], mesh)
    with checkpoint.open_checkpoints(run) as checkpoints, StopSignals() as signals:
        state = checkpoint.restore_latest(
            checkpoints, new_state(config, prepared.num_channels, mesh)
        )
        # The only reads of the state that wait for the device; from here the host counts.
        step, stopped = int(state.step), should_stop(state.early_stop, config.early_stop)
        workdir.truncate_metrics(run, step)
        batches = training_batches(
            prepared, splits["train"], config, step, jax.process_index(), jax.process_count()
        )
        saved = step
        # Whenever we save, state.step == step == batches consumed, and plateau and early stop
        # have seen every evaluation up to it. Hence the order: step, evaluate, observe, save.
        with Progress(run, step, config.train) as progress:
            while step < num_steps and not stopped and not signals.received:
                batch = to_global(progress.next_batch(batches), mesh)
                state, metrics = train_step(state, batch)
                step += 1
                progress.step(step, metrics)
                if step % config.train.eval_every_steps and step != num_steps:
                    continue
                progress.flush()
                with progress.ledger.measure("evaluation"):
                    result = validation.scores(best_weights(state))
                    state = observe(state, jnp.float32(monitored(result, config)))
                with progress.ledger.measure("saving"):
                    checkpoint.save(checkpoints, step, state, monitored(result, config))
                saved, stopped = step, should_stop(state.early_stop, config.early_stop)
                progress.evaluation(step, result, state)
                if progress.wants_pictures:
                    progress.pictures(step, validation.pictures(best_weights(state)))
            progress.flush()
        if step > saved:
            checkpoint.save(checkpoints, step, state, None)
    complete = stopped or step == num_steps
    return None if complete else signals.received


def monitored(result: dict[str, float], config: Config) -> float:
    """Return the watched validation value, larger is better; -inf when it is not finite."""
    dice = config.train.monitor == "dice"
    value = result["validation_dice"] if dice else -result["validation_loss"]
    return value if math.isfinite(value) else -math.inf


def say_data(prepared: Prepared, splits: Splits):
    """Print the size of each split and the data set's warnings."""
    for warning in prepared.warnings:
        print(f"warning: {warning}")
    for name, patients in splits.items():
        tumour = sum(t > 0 for p in patients for t in p.tumour_pixels)
        slices = sum(p.num_slices for p in patients)
        print(f"{name:<10} {len(patients):>4} patients {slices:>6} slices, {tumour} with tumour")


def main(argv: Sequence[str]):
    """Run the program; see the top of the file."""
    flags.DEFINE_string("workdir", None, "folder of the run")
    config, name = cli.parse_config(argv, __doc__)
    if config.dataset.source:  # so that evaluate finds it from any folder
        source = str(Path(config.dataset.source).expanduser().absolute())
        dataset = dataclasses.replace(config.dataset, source=source)
        config = dataclasses.replace(config, dataset=dataset)
    run = Path(flags.FLAGS.workdir or Path("runs") / name).expanduser()
    print(describe(config), f"\nworkdir: {run}", sep="\n", flush=True)
    mesh = make_mesh()
    check_batch_size(config.train.batch_size, mesh, "train.batch_size")
    check_batch_size(config.evaluation.batch_size, mesh, "evaluation.batch_size")
    prepared = prepare(config.dataset)
    splits = split_patients(prepared.patients, config.split)
    workdir.claim(run, config, prepared.num_channels, splits)
    output = run / "evaluation" / "test"
    if workdir.is_finished(run):
        print(f"{run} is finished; its report: {output / 'report.html'}")
        return
    say_data(prepared, splits)
    print(f"devices: {mesh.size} x {mesh.devices.flat[0].device_kind}", flush=True)
    if not (run / "baseline.json").exists():
        find_threshold_baseline(run, prepared, splits["train"])
    signal = train(config, run, prepared, splits)
    if signal:
        print(f"{signal}: saved in {run}; the same command continues from there")
        return
    best_step, weights = checkpoint.load_best(run, config, prepared.num_channels)
    note = f"Weights of step {best_step} of {run}, the best by validation {config.train.monitor}."
    title = f"{config.dataset.name}: test ({len(splits['test'])} patients)"
    print(f"\nTraining is complete. {note}\n", flush=True)
    about = {"split": "test", "source": config.dataset.source, "step": best_step}
    evaluate(run, config, weights, prepared, splits["test"], output, title, about, [note])
    workdir.mark_finished(run, best_step)


if __name__ == "__main__":
    cli.run(main)
