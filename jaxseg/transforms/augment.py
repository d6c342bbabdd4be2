"""Raw patches to training samples: one jitted program, a pure function of the drawn numbers."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxseg.config import Config
from jaxseg.machine.sharding import split_batch, split_images, to_global
from jaxseg.transforms import contrast, warp

Batch = Mapping[str, jax.Array]


def augment_one(raw: Batch, shape: tuple[int, ...], elastic_spacing: float) -> dict[str, jax.Array]:
    """Return one sample on the training grid.

    Args:
        raw: `image` [*S, C] as scanned, `mask` [*S, K] of {0, 1}, and the numbers of
            `imaging.draws`, `stats` [C, 4] among them.
        shape: of the training grid, n sizes.
        elastic_spacing: training voxels between the nodes of the elastic displacement.

    Returns:
        `image` [*shape, C] float32 and `mask` [*shape, K] uint8: each mask is sampled by itself,
        linearly, and holds where at least half is inside. Outside of the source the image has
        the scan's darkest value.
    """
    stats, shape = raw["stats"], tuple(shape)
    outside = contrast.outside_level(stats)
    level = contrast.rows(outside, raw["image"])
    image = contrast.normalise(raw["image"], stats) - level
    both = jnp.concatenate([image, raw["mask"].astype(jnp.float32)], axis=-1)
    moved = warp.displace(raw["nodes"], shape, elastic_spacing)
    where = warp.places(raw["matrix"], shape) + moved @ raw["matrix"][:, :-1].T
    both = warp.sample(both, where)
    image, mask = both[..., : image.shape[-1]] + level, both[..., image.shape[-1] :] >= 0.5
    image = contrast.scale_and_shift(image, raw["factors"], raw["shifts"])
    image = contrast.gamma(image, raw["exponents"])
    gain = warp.displace(raw["gain_nodes"][None], shape, max(shape))[..., 0]
    image = contrast.bias_field(image, gain, raw["gain_strength"], outside)
    image = contrast.smooth(image, [raw[f"smooth_{axis}"] for axis in range(len(shape))])
    image = contrast.noise(image, raw["noise_seed"], raw["noise_std"])
    return {"image": image, "mask": mask.astype(jnp.uint8)}


def augment(raw: Batch, *, config: Config) -> dict[str, jax.Array]:
    """Return a batch of samples; what is not of `augment_one` is passed on."""
    shape = config.input.image_size
    spacing = config.augment.elastic_smoothness * max(shape)
    own = {name: value for name, value in raw.items() if name != "stop"}
    made = jax.vmap(functools.partial(augment_one, shape=shape, elastic_spacing=spacing))(own)
    return made | ({"stop": raw["stop"]} if "stop" in raw else {})


def make_feed(config: Config, mesh: Mesh) -> Callable[[Mapping[str, np.ndarray]], Batch]:
    """Return what takes a batch from the host to the devices, ready for the training step.

    Slices come augmented from the host; patches of volumes are augmented here, by a program of
    its own that runs ahead of the step.
    """
    if len(config.input.image_size) == 2:
        return lambda batch: to_global(batch, mesh)
    bound = jit_augment(config, mesh)
    return lambda batch: bound(place_raw(batch, mesh))


def jit_augment(config: Config, mesh: Mesh) -> Callable[[Batch], Batch]:
    """Return the compiled `augment` (raw batch) -> batch, its images split as the step's."""
    images, samples = split_images(mesh), split_batch(mesh)
    out = {"image": images, "mask": images, "stop": samples}
    return jax.jit(functools.partial(augment, config=config), out_shardings=out)


def place_raw(batch: Mapping[str, np.ndarray], mesh: Mesh) -> Batch:
    """Put this process's part of a raw batch on the devices, whole samples on each."""
    place = functools.partial(jax.make_array_from_process_local_data, split_batch(mesh))
    return jax.tree.map(place, dict(batch))
