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

from jaxseg.config import command_line
from jaxseg.scoring.cohort import cohort

command_line.help_first(__name__, __doc__)  # what follows takes more than a second to import

import contextlib
import dataclasses
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import jax

from jaxseg.config import Config
from jaxseg.config.settings import differences, to_json
from jaxseg.datasets.index import Patient, fingerprint
from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.prepared import Prepared
from jaxseg.datasets.splits import check_folds, split_patients
from jaxseg.errors import UserError
from jaxseg.evaluation.parts import Part
from jaxseg.evaluation.score import evaluate
from jaxseg.evaluation.threshold_baseline import find_baselines
from jaxseg.evaluation.tuning import tuned
from jaxseg.layouts.kinds import told_by_files
from jaxseg.machine import locks
from jaxseg.machine.distributed import (
    check_same,
    failing_together,
    is_main,
    join,
    on_main,
    together,
)
from jaxseg.machine.sharding import check_fits, make_mesh, whole_arrays
from jaxseg.machine.start import start_computing
from jaxseg.models import native
from jaxseg.prediction import trained
from jaxseg.runs import workdir
from jaxseg.runs.loop import Splits, train
from jaxseg.training.state import abstract_state
from jaxseg.transforms.augment import on_device


def say_set_up(config: Config, run: Path, prepared: Prepared, splits: Splits):
    """Print the settings that are no defaults, the data set's warnings and splits, the devices."""
    print(f"settings that differ from the defaults (all of them: {run / 'config.json'}):")
    print(differences(config))
    for warning in prepared.warnings:
        print(f"warning: {warning}")
    for name, patients in splits.items():
        tumour = sum(t > 0 for p in patients for t in p.tumour_pixels)
        slices = sum(p.num_slices for p in patients)
        counts = f"{slices:>6} slices, {tumour} with tumour"
        if len(config.input.image_size) == 3:
            counts = f"with {_region_counts(patients, prepared)}"
        number, _, what = cohort(len(patients), len({p.person for p in patients})).partition(" ")
        print(f"{name:<10} {number:>4} {what} {counts}")
    mesh = make_mesh(config.mesh)
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1)
    hosts = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
    print(
        f"devices: {mesh.size} x {mesh.devices.flat[0].device_kind}{hosts} {axes and f'({axes})'}"
    )
    if on_device(config):
        print("samples are changed at random on the device (config.input.augment_on)")
    if mesh.size == 1 and jax.default_backend() == "cpu" and (reason := _slower(config)):
        print(f"note: slower without jaxseg's own convolutions: {reason}")
    state = abstract_state(config, prepared.num_channels, mesh)
    for array in whole_arrays(state, mesh, config.mesh.fsdp_min_size):
        print(f"not split over fsdp, no axis divides: {array}")
    sys.stdout.flush()


def _slower(config: Config) -> str:
    """Return why convolutions are XLA's on a single CPU; '' where they are jaxseg's own."""
    odd = [str(width) for width in config.model.widths if not native.fits(width)]
    widths = f"config.model.widths {', '.join(odd)}: give multiples of 8" if odd else ""
    return native.problem() or widths


def _region_counts(patients: Sequence[Patient], prepared: Prepared) -> str:
    """Return how many patients have each region."""
    counts = (sum(p.region_voxels[k] > 0 for p in patients) for k in range(len(prepared.regions)))
    pairs = zip(prepared.regions, counts, strict=True)
    return ", ".join(f"{name} {count}" for name, count in pairs)


def check_regions(config: Config, prepared: Prepared):
    """Raise UserError unless the network has an output for each region."""
    given, regions = config.model.num_classes, prepared.regions
    if given != len(regions):
        raise UserError(
            f"config.model.num_classes={given}: the data set has {len(regions)} regions "
            f"({', '.join(regions)}); give as many"
        )


def set_up(
    config: Config, run: Path, stack: contextlib.ExitStack
) -> tuple[Prepared, Splits] | None:
    """Check config, devices and data, and claim the workdir; None when the run is finished."""
    together(lambda: check_fits(config, make_mesh(config.mesh)))
    check_same("settings", to_json(config))
    prepared = together(lambda: prepare(config.dataset, config.split))
    check_same("scans", fingerprint(prepared.patients))
    splits = together(lambda: split_patients(prepared.patients, config.split))
    together(lambda: check_regions(config, prepared))
    if not on_main(lambda: (run / "config.json").exists()):
        together(lambda: check_folds(prepared.patients, config.split))
    lock = locks.hold(run / "lock", f"--workdir {run}")
    on_main(lambda: stack.enter_context(lock))
    holder = on_main(lambda: (run / "lock").read_text())
    together(lambda: workdir.check_shared(run / "lock", holder))
    on_main(lambda: workdir.claim(run, config, prepared, splits))
    if on_main(lambda: workdir.is_finished(run)):
        return None
    say_set_up(config, run, prepared, splits)
    return prepared, splits


def baselines_meanwhile(run: Path, prepared: Prepared, patients: Sequence[Patient]) -> Future:
    """Find the baselines in a thread, once in a run: the training compiles first.

    Nobody waits for it where the program ends before.
    """
    found: Future = Future()

    def find():
        try:
            if is_main() and not (run / "baseline.json").exists():
                find_baselines(run, prepared, patients)
            found.set_result(None)
        except Exception as error:
            found.set_exception(error)

    threading.Thread(target=find, name="baselines", daemon=True).start()
    return found


def main(argv: Sequence[str]):
    """Run the program; see the top of the file."""
    options, config, name = command_line.parse_config(argv, __doc__, text=("workdir",))
    if config.dataset.source:  # so that evaluate finds it from any folder
        source = str(Path(config.dataset.source).expanduser().absolute())
        dataset = dataclasses.replace(config.dataset, source=source)
        config = dataclasses.replace(config, dataset=dataset)
    run = Path(options.workdir or Path("runs") / name).expanduser()
    start_computing(joining=True)
    join()
    with failing_together(), contextlib.ExitStack() as stack:
        train_and_test(config, run, stack)


def train_and_test(config: Config, run: Path, stack: contextlib.ExitStack):
    """Train, tune on validation, score on the test patients; the stack holds the workdir."""
    # The run keeps what the files tell of channels and regions, and needs them no more.
    dataset = together(lambda: told_by_files(config.dataset))
    config = dataclasses.replace(config, dataset=dataset)
    data = set_up(config, run, stack)
    output = run / "evaluation" / "test"
    if data is None:
        print(f"{run} is finished; its report: {output / 'report.html'}")
        return
    prepared, splits = data
    baselines = baselines_meanwhile(run, prepared, splits["train"])
    reason = train(config, run, prepared, splits)
    if reason:
        print(f"{reason}: saved in {run}; the same command continues from there")
        return
    baselines.result()  # raises what went wrong there
    best = trained.load(run)
    note = f"Weights of step {best.step} of {run}, best by validation {config.train.monitor}."
    who = cohort(len(splits["test"]), len({patient.person for patient in splits["test"]}))
    title = f"{config.dataset.name}: test ({who})"
    print(f"\nTraining is complete. {note}\n", flush=True)
    about = {"split": "test", "source": config.dataset.source, "step": best.step}
    model = trained.predictor(best)
    best = tuned(best, model, prepared, splits["validation"])
    model = model._replace(temperatures=tuple(p.temperature for p in best.points))
    evaluate([Part(best, model, splits["test"])], prepared, output, title, about, [note])
    on_main(lambda: workdir.mark_finished(run, best.step))


if __name__ == "__main__":
    command_line.run(main)
