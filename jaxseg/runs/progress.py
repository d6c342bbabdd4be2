"""What a run says while it goes: progress bar or plain lines, metrics.jsonl, the time ledger."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxseg.config import Train
from jaxseg.errors import TrainingFailed
from jaxseg.machine.distributed import gather, is_main
from jaxseg.runs.tensorboard import TensorBoard
from jaxseg.runs.workdir import metrics_path, truncate_metrics
from jaxseg.training.state import TrainState

# A run is called input-bound above this share of the training time, and this many seconds
# (the first batch always makes the device wait).
INPUT_BOUND_SHARE = 0.2
INPUT_BOUND_SECONDS = 2.0
QUIET_SECONDS = 60.0  # a log that says no more is broken by a line: nobody shall think it hangs


class Ledger:
    """Seconds spent per activity since the last report."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def measure(self, activity: str) -> Iterator[None]:
        """Add the time of the block to an activity."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(activity, time.perf_counter() - start)

    def add(self, activity: str, seconds: float):
        """Add seconds to an activity."""
        self.seconds[activity] = self.seconds.get(activity, 0.0) + seconds

    def report(self) -> tuple[dict[str, float], str]:
        """Return the share of each activity (0..1) and a line about it, and start anew."""
        total = sum(self.seconds.values()) or 1.0
        shares = {name: seconds / total for name, seconds in self.seconds.items()}
        line = ", ".join(f"{n} {s:.0%}" for n, s in shares.items() if s >= 0.005)
        waiting = self.seconds.get("waiting for data", 0.0)
        training = waiting + self.seconds.get("steps", 0.0)
        if waiting > max(INPUT_BOUND_SHARE * training, INPUT_BOUND_SECONDS):
            line += "; input-bound: more input.num_threads or num_workers would help"
        self.seconds = {}
        return shares, line


class Progress:
    """Takes the metrics of each step and evaluation; only the first process writes."""

    def __init__(self, workdir: Path, first_step: int, config: Train):
        self.config = config
        self.ledger = Ledger()
        self.is_main = is_main()
        self.stop = 0  # the largest vote of all processes; see signals.py
        if first_step:
            print(f"continuing at step {first_step} of {config.num_steps}", flush=True)
        self._compiled: set[str] = set()
        self._pending: tuple[int, dict[str, jax.Array]] | None = None
        self._window: list[dict[str, float]] = []
        self._window_start = self._said = time.perf_counter()
        if self.is_main:
            truncate_metrics(workdir, first_step)
            self._file = metrics_path(workdir).open("ab", buffering=0)
            self._unwritten = b""  # while the disk is full
            self._board = TensorBoard(workdir / "tensorboard", first_step)
        # Pictures are predicted by all processes, so all must know.
        self.wants_pictures = gather(self.is_main and self._board.active)[0]
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=config.num_steps,
            initial=first_step,
            unit="step",
            disable=not (terminal and self.is_main),
            dynamic_ncols=True,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_):
        self._bar.close()
        if self.is_main:
            self._append("")
            self._file.close()
            self._board.close()

    def step(self, step: int, metrics: dict[str, jax.Array]):
        """Take the metrics of a step just started; reads those of the step before.

        Reading one step late lets the device work on while the host prepares the next batch.

        Raises:
            TrainingFailed: too many non-finite updates in a row.
        """
        self.flush()
        self._pending = (step, metrics)

    def next_batch(self, batches: Iterator[Any], vote: int) -> dict[str, np.ndarray]:
        """Return the next batch with this process's vote to stop.

        Time counts as waiting only when the device had run dry.
        """
        start = time.perf_counter()
        batch = next(batches)
        idle = self._pending is None or self._pending[1]["train_loss"].is_ready()
        self.ledger.add("waiting for data" if idle else "steps", time.perf_counter() - start)
        return batch | {"stop": np.full(len(batch["image"]), vote, np.int32)}

    @contextlib.contextmanager
    def away(self, activity: str) -> Iterator[None]:
        """Measure a block away from training: its time is none of the steps'."""
        start = time.perf_counter()
        with self.ledger.measure(activity):
            yield
        self._window_start += time.perf_counter() - start

    @contextlib.contextmanager
    def compiling(self, what: str) -> Iterator[None]:
        """Measure a block, which compiles the first time: then the time is not the steps'.

        Nor is it in the estimate of what is left.
        """
        if what in self._compiled:
            yield
            return
        self._compiled.add(what)
        with self.away("compiling"):
            yield
        self._said = time.perf_counter()  # it was said that it compiles
        self._bar.unpause()

    def flush(self):
        """Wait for the last step and record it."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        with self.ledger.measure("steps"):
            values = {name: float(v) for name, v in jax.device_get(metrics).items()}
        self.stop = max(self.stop, int(values["stop"]))
        self._window.append(values)
        self._bar.update()
        if step % self.config.log_every_steps == 0 or step == self.config.num_steps:
            self._log_window(step)
        elif self._bar.disable and time.perf_counter() - self._said > QUIET_SECONDS:
            seconds = (time.perf_counter() - self._window_start) / len(self._window)
            self._say_step(step, f"{seconds:.1f} s a step", seconds)
        in_row = int(values["nonfinite_in_row"])
        if in_row >= self.config.max_nonfinite_in_row:
            raise TrainingFailed(
                f"step {step}: loss or gradient was not finite {in_row} times in a row; the last "
                "good checkpoint is kept. A lower optimizer.learning_rate or float32 may help."
            )

    def catch_up(self, step: int):
        """Wait for the last step and record what the log has not said of the steps before it."""
        self.flush()
        if self._window:
            self._log_window(step)

    def _log_window(self, step: int):
        window, self._window = self._window, []
        now = time.perf_counter()
        rate = len(window) * self.config.batch_size / (now - self._window_start)
        self._window_start = now
        finite = [w for w in window if math.isfinite(w["train_loss"])] or window
        last = window[-1]
        record = {
            "train_loss": float(np.mean([w["train_loss"] for w in finite])),
            "train_dice": float(np.mean([w["train_dice"] for w in finite])),
            "learning_rate": last["learning_rate"],
            "gradient_norm": last["gradient_norm"],
            "nonfinite_total": int(last["nonfinite_total"]),
            "samples_per_second": rate,
        }
        text = (
            f"loss {record['train_loss']:.4f}  dice {record['train_dice']:.3f}  "
            f"lr {record['learning_rate']:.2e}  {rate:.1f} samples/s"
        )
        if self._bar.disable:
            self._say_step(step, text, self.config.batch_size / rate)
        else:
            self._bar.set_postfix_str(text)
        self.record(step, record)

    def _say_step(self, step: int, text: str, seconds: float):
        left = _duration((self.config.num_steps - step) * seconds)
        self.say(f"step {step}/{self.config.num_steps}  {text}  {left} left")

    def record(self, step: int, values: dict[str, float]):
        """Append to metrics.jsonl (non-finite numbers as null) and to TensorBoard."""
        if not self.is_main:
            return
        clean = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._append(json.dumps({"step": step, **clean}) + "\n")
        self._board.scalars(step, {k: v for k, v in clean.items() if v is not None})

    def _append(self, line: str):
        """Write what is left and the line; what a full disk refuses waits for the next time."""
        full = bool(self._unwritten)
        self._unwritten += line.encode()
        try:
            while self._unwritten:  # on a disk almost full a part of a line is written
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
        except OSError as error:
            if not full:
                text = f"metrics.jsonl cannot be written now ({error.strerror}), is tried again"
                with contextlib.suppress(OSError):  # the log may lie on the same full disk
                    print(f"warning: {text}", file=sys.stderr)

    def pictures(self, step: int, pictures: Sequence[np.ndarray]):
        """Show validation pictures, [H, W, 3] uint8 each, in TensorBoard where it is installed."""
        if self.is_main:
            self._board.images(step, pictures)

    def evaluation(self, step: int, report: dict[str, float], state: TrainState):
        """Record an evaluation and say it in one line, with the time ledger."""
        shares, line = self.ledger.report()
        time_shares = {f"time_{name.replace(' ', '_')}": s for name, s in shares.items()}
        self.record(step, report | time_shares)
        bad = int(state.early_stop.bad)
        note = (
            "better than before" if bad == 0 else f"no better for {bad} evaluation{'s'[: bad - 1]}"
        )
        scale = float(state.plateau.scale)
        if scale < 1:
            note += f"; learning rate x {scale:.3g}"
        dice, loss = report["validation_dice"], report["validation_loss"]
        values = f"validation dice {dice:.4f}  loss per sample {loss:.4f}"
        self.say(f"step {step}/{self.config.num_steps}  {values}  {note}")
        self.say(f"  time since the last evaluation: {line}")

    def say(self, text: str):
        """Print a line above the progress bar."""
        self._said = time.perf_counter()
        if self.is_main:
            with contextlib.suppress(OSError):
                self._bar.write(text, file=sys.stdout)
                sys.stdout.flush()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
