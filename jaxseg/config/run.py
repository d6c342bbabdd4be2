"""All settings of a run: the sections together, and what must fit between them."""

import dataclasses

from jaxseg.config.check import Check
from jaxseg.config.data import Augment, Dataset, Input, Split
from jaxseg.config.training import EarlyStop, Loss, Mesh, Model, Optimizer, Plateau, Train
from jaxseg.errors import UserError


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The scorecard."""

    batch_size: int = 32  # global
    threshold: float = 0.5  # probability from which a pixel is tumour, unless tuning finds better
    tune: bool = True  # after training, choose the operating point on validation; see tuning.py
    bootstrap_samples: int = 10_000  # resamples of the patients for the 95 % interval
    # Besides, as a BraTS challenge scores: "" (not), legacy, lesionwise_2023 or brats_2026; see
    # scoring/brats.py. Its challenge: GLI, SSA, PED, MEN or MET.
    brats_definition: str = ""
    brats_challenge: str = "GLI"

    def __post_init__(self):
        check = Check("evaluation", self)
        check.at_least(1, "batch_size", "bootstrap_samples")
        check.choice("brats_definition", "", "legacy", "lesionwise_2023", "brats_2026")
        check.choice("brats_challenge", "GLI", "SSA", "PED", "MEN", "MET")
        check("threshold", 0 < self.threshold < 1, "must lie in 0..1, without the ends")


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run."""

    seed: int = 0
    profile: tuple[int, ...] = ()  # (first, last) step to profile into WORKDIR/profile
    dataset: Dataset = Dataset()
    split: Split = Split()
    input: Input = Input()
    augment: Augment = Augment()
    model: Model = Model()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    plateau: Plateau = Plateau()
    early_stop: EarlyStop = EarlyStop()
    mesh: Mesh = Mesh()
    train: Train = Train()
    evaluation: Evaluation = Evaluation()

    def __post_init__(self):
        if not 0 <= self.seed < 2**31:
            raise UserError(f"config.seed={self.seed}: must lie in 0..2^31-1")
        if self.profile and (len(self.profile) != 2 or not 0 < self.profile[0] <= self.profile[1]):
            raise UserError(f"config.profile={self.profile}: give (first, last) step, from 1 on")
        cubic = self.augment.cubic and self.input.augment_on == "device"
        rule = "the device samples linearly; give input.augment_on=host"
        Check("augment", self.augment)("cubic", not cubic, rule)
        self._check_network_fits()

    def _check_network_fits(self):
        """Check windows, kernels and size of the images against each other, axis by axis."""
        size, check = self.input.image_size, Check("model", self.model)
        for name in ("windows", "kernels"):
            given = getattr(self.model, name)
            rule = f"each level needs {len(size)} numbers, as input.image_size={size} has"
            check(name, not given or len(given[0]) == len(size), rule)
        multiples = self.model.multiple(len(size))
        by = "model.windows shrink" if self.model.windows else "model.widths shrinks"
        for axis, (length, multiple) in enumerate(zip(size, multiples, strict=True)):
            near = " or ".join(str(n) for n in _multiples_around(length, multiple))
            rule = f"axis {axis} must be a multiple of {multiple}, such as {near}: {by} it so much"
            Check("input", self.input)("image_size", length % multiple == 0, rule)


def _multiples_around(length: int, multiple: int) -> list[int]:
    below = length // multiple * multiple
    return [n for n in (below, below + multiple) if n]
