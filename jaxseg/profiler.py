"""A profile of chosen training steps."""

from pathlib import Path
from typing import Any

import jax


class Profile:
    """Context manager that records what host and devices do from one step to another.

    Writes to WORKDIR/profile, for TensorBoard's profile plugin and, as
    `perfetto_trace.json.gz`, for ui.perfetto.dev.
    """

    def __init__(self, workdir: Path, steps: tuple[int, ...]):
        self._folder, self._steps, self._active = workdir / "profile", steps, False

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_):
        if self._active:
            jax.profiler.stop_trace()

    def before(self, step: int, state: Any):
        """Begin before the first chosen step; end after the last, when the state is computed."""
        if self._steps and step == self._steps[0]:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._active = True
        elif self._active and step == self._steps[1] + 1:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._active = False
            print(f"profile of steps {self._steps[0]} to {self._steps[1]}: {self._folder}")
