"""Settings of the network, its training and the devices: frozen dataclasses, checked when made."""

import dataclasses
import math

from jaxseg.config.check import Check, names


@dataclasses.dataclass(frozen=True)
class Model:
    """The U-Net; the defaults are the classic one with 7.76 M parameters."""

    widths: tuple[int, ...] = (32, 64, 128, 256, 512)  # features per level; gives the depth
    windows: tuple[tuple[int, ...], ...] = ()  # from a level to the next, per axis; (): all 2
    kernels: tuple[tuple[int, ...], ...] = ()  # of a level's convolutions, per axis; (): all 3
    downsample: str = "pool"  # pool (maximum) or stride (of the next level's first convolution)
    blocks: tuple[int, ...] = ()  # residual blocks per level of the encoder; (): one plain block
    decoder_convs: int = 2  # convolutions per level of the decoder
    num_classes: int = 1  # regions of the data set, one output and sigmoid each
    norm: str = "batch"  # batch, group or instance
    norm_epsilon: float = 1e-6  # added to the variance of group and instance norm; batch has 1e-5
    activation: str = "relu"  # relu or leaky_relu (0.01 below 0)
    upsample: str = "transpose"  # transpose (window = stride) or resize (nearest, convolution)
    residual: bool = False  # add each block's input to its output; not together with blocks
    dropout: float = 0.0  # after each block of the two deepest levels
    deep_supervision: int = 0  # extra outputs on this many coarser levels, in training only
    compute_dtype: str = "float32"  # float32 or bfloat16; parameters are always float32
    remat: bool = False  # recompute blocks in the backward pass: less memory, more time

    def __post_init__(self):
        check = Check("model", self)
        holds = len(self.widths) >= 2 and min(self.widths) > 0
        check("widths", holds, "give at least two positive numbers of features")
        self._check_levels(check)
        check.choice("norm", "batch", "group", "instance")
        check.choice("downsample", "pool", "stride")
        check.choice("activation", "relu", "leaky_relu")
        check("norm_epsilon", self.norm_epsilon > 0, "must be above 0")
        check.choice("upsample", "transpose", "resize")
        check.choice("compute_dtype", "float32", "bfloat16")
        check.at_least(1, "num_classes", "decoder_convs")
        check("dropout", 0 <= self.dropout < 1, "must lie in 0..1, below 1")
        last = len(self.widths) - 2  # the coarser levels above the bottleneck
        holds = 0 <= self.deep_supervision <= last
        check("deep_supervision", holds, f"must lie in 0..{last}")

    def _check_levels(self, check: Check):
        """Check what has one entry per level, or is empty."""
        levels, one_rank = (
            len(self.widths),
            "each level needs as many numbers as the image has axes",
        )
        for name, count in (("windows", levels - 1), ("kernels", levels)):
            given = getattr(self, name)
            rule = f"give {count} levels of numbers, since model.widths has {levels}, or ()"
            check(name, len(given) in (0, count), rule)
            check(name, len({len(numbers) for numbers in given}) <= 1, one_rank)
            check(name, all(n > 0 for numbers in given for n in numbers), "numbers are at least 1")
        odd = all(n % 2 for numbers in self.kernels for n in numbers)
        check("kernels", odd, "must be odd, so that a voxel lies in the middle")
        rule = f"give {levels} numbers of at least 1, as model.widths has, or ()"
        check("blocks", len(self.blocks) in (0, levels) and min(self.blocks, default=1) > 0, rule)
        check(
            "residual", not (self.residual and self.blocks), "leave it out where blocks are given"
        )

    def window(self, level: int, rank: int) -> tuple[int, ...]:
        """Return by how much each axis is smaller at level + 1 than at this level."""
        return self.windows[level] if self.windows else (2,) * rank

    def kernel(self, level: int, rank: int) -> tuple[int, ...]:
        """Return the size of this level's convolutions along each axis."""
        return self.kernels[level] if self.kernels else (3,) * rank

    def multiple(self, rank: int) -> tuple[int, ...]:
        """Return what each axis of an image must be a multiple of: its windows' product."""
        windows = [self.window(level, rank) for level in range(len(self.widths) - 1)]
        return tuple(map(math.prod, zip(*windows, strict=True)))

    @property
    def slope(self) -> float:
        """Return the slope of the activation below 0."""
        return 0.01 if self.activation == "leaky_relu" else 0.0


@dataclasses.dataclass(frozen=True)
class Loss:
    """Weights of the terms; a term with weight 0 is not computed."""

    bce: float = 1.0
    dice: float = 1.0
    focal: float = 0.0
    tversky: float = 0.0
    dice_over_batch: bool = True  # Dice and Tversky sums over the global batch, not per sample
    dice_smooth: float = 1.0  # pixels added to numerator and denominator
    focal_gamma: float = 2.0
    tversky_alpha: float = 0.3  # weight of false positives
    tversky_beta: float = 0.7  # weight of false negatives

    def __post_init__(self):
        check = Check("loss", self)
        check.at_least(0, *(n for n in names(self) if n != "dice_over_batch"))
        total = self.bce + self.dice + self.focal + self.tversky
        check("bce", total > 0, "at least one of bce, dice, focal, tversky must be above 0")
        check("dice_smooth", self.dice_smooth > 0, "must be above 0 pixels")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW or SGD with warm-up, clipping and an average of the weights."""

    learning_rate: float = 1e-3  # after warm-up
    warmup_steps: int = 100  # linear from 0
    cosine: bool = False  # decay to 0 at the last step
    poly: bool = False  # decay to 0 at the last step as (what is left of the steps)^0.9
    name: str = "adamw"  # adamw, or sgd with Nesterov's momentum
    momentum: float = 0.99  # of sgd
    weight_decay: float = 1e-4  # on kernels only
    clip_norm: float = 1.0  # global norm of the gradient; 0: no clipping
    ema_decay: float = 0.0  # average of the weights, evaluated and saved; 0: off

    def __post_init__(self):
        check = Check("optimizer", self)
        check("learning_rate", self.learning_rate > 0, "must be above 0")
        check.choice("name", "adamw", "sgd")
        check("momentum", 0 <= self.momentum < 1, "must lie in 0..1, below 1")
        check("poly", not (self.poly and self.cosine), "choose one of poly and cosine")
        check.at_least(0, "warmup_steps", "weight_decay", "clip_norm")
        check("ema_decay", 0 <= self.ema_decay < 1, "must lie in 0..1, below 1")


@dataclasses.dataclass(frozen=True)
class Plateau:
    """Lower the learning rate when the monitored value stops improving."""

    factor: float = 0.5  # 1: off
    patience: int = 8  # evaluations without improvement before a reduction
    cooldown: int = 2  # evaluations after a reduction that do not count
    min_delta: float = 1e-4  # smaller gains are none
    min_scale: float = 0.01  # of the scheduled learning rate

    def __post_init__(self):
        check = Check("plateau", self)
        check("factor", 0 < self.factor <= 1, "must lie above 0, up to 1")
        check.at_least(1, "patience")
        check.at_least(0, "cooldown", "min_delta")
        check.fractions("min_scale")


@dataclasses.dataclass(frozen=True)
class EarlyStop:
    """End the training when the monitored value stops improving."""

    patience: int = 20  # evaluations without improvement; 0: never stop early
    min_delta: float = 1e-4

    def __post_init__(self):
        Check("early_stop", self).at_least(0, "patience", "min_delta")


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How the devices of all hosts share the work: their number is data x fsdp x spatial."""

    data: int = -1  # parts of the batch; -1: all devices that the other axes leave
    fsdp: int = 1  # parts of the batch too, and of parameters, optimiser state and average
    spatial: int = 1  # parts of the image's rows; devices of one host
    fsdp_min_size: int = 65536  # arrays with fewer elements stay whole

    def __post_init__(self):
        check = Check("mesh", self)
        check("data", self.data == -1 or self.data > 0, "must be -1 (all that are left) or above 0")
        check.at_least(1, "fsdp", "spatial", "fsdp_min_size")


@dataclasses.dataclass(frozen=True)
class Train:
    """The loop."""

    num_steps: int = 20_000  # updates in all
    batch_size: int = 16  # global: over all devices and hosts
    accumulate: int = 1  # parts a batch is computed in, one after the other: less memory
    eval_every_steps: int = 500  # evaluate, observe, save
    log_every_steps: int = 50
    monitor: str = "dice"  # validation value: dice (mean over patients) or loss
    max_nonfinite_in_row: int = 10  # skipped updates in a row before the run gives up
    keep_every_steps: int = 0  # keep the checkpoints of these steps too; 0: latest and best only
    deterministic: bool = False  # on a GPU: the same bits every time; compiles sooner, runs slower
    max_minutes: float = 0.0  # of one start; then save and end, to be continued; 0: no limit

    def __post_init__(self):
        check = Check("train", self)
        check.at_least(1, "num_steps", "batch_size", "accumulate", "eval_every_steps")
        check.at_least(1, "log_every_steps", "max_nonfinite_in_row")
        check.at_least(0, "keep_every_steps", "max_minutes")
        check.choice("monitor", "dice", "loss")
        whole = self.keep_every_steps % self.eval_every_steps == 0
        check("keep_every_steps", whole, "must be a multiple of eval_every_steps")
