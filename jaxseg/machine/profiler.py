"""A profile of chosen training steps."""

import sys
from pathlib import Path
from typing import Any

import jax


class Profile:
    """Context manager that records what host and devices do from one step to another.

    Writes to WORKDIR/profile, for TensorBoard's profile plugin and, as
    `perfetto_trace.json.gz`, for ui.perfetto.dev. The first of several processes does.
    """

    def __init__(self, workdir: Path, steps: tuple[int, ...]):
        self._folder, self._active = workdir / "profile", False
        self._first, self._last = steps if steps and jax.process_index() == 0 else (0, -1)

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_):
        if self._active:
            self._stop()

    def before(self, step: int, state: Any):
        """Begin before the first chosen step; end after the last, when the state is computed.

        A run that continues between the two records the rest.
        """
        if not self._active and self._first <= step <= self._last:
            jax.block_until_ready(state)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # each call of Python: slow, and hides the rest
            jax.profiler.start_trace(
                self._folder, create_perfetto_trace=True, profiler_options=options
            )
            self._active = True
        elif self._active and step > self._last:
            jax.block_until_ready(state)
            self._stop()

    def _stop(self):
        self._active = False
        try:
            jax.profiler.stop_trace()
        except (OSError, jax.errors.JaxRuntimeError) as error:  # by example on a full disk
            print(f"warning: the profile could not be written: {error}", file=sys.stderr)
        else:
            print(f"profile of steps {self._first} to {self._last}: {self._folder}", flush=True)
