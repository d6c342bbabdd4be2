"""Raw samples to training samples: one jitted program, a pure function of the drawn numbers."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxseg.config import Config
from jaxseg.machine.compiler import small_options
from jaxseg.machine.sharding import split_batch, split_images, to_global
from jaxseg.transforms import contrast, warp
from jaxseg.transforms.smoothing import EXACT, along_axes, averaging, smoothing

Batch = Mapping[str, jax.Array]


def augment_one(raw: Batch, shape: tuple[int, ...], elastic_spacing: float) -> dict[str, jax.Array]:
    """Return one sample on the training grid.

    Args:
        raw: `image` [*S, C] as scanned, `mask` [*S, K] of {0, 1}, `stats` [C, 4], `outside` [C],
            the normalised value of what lies outside of the scan, and the numbers of the change
            (`datasets.patches`, `datasets.raw_slices`).
        shape: of the training grid, n sizes.
        elastic_spacing: training voxels between the nodes of the elastic displacement.

    Returns:
        `image` [*shape, C] float32 and `mask` [*shape, K] uint8.
    """
    outside, shape = raw["outside"], tuple(shape)
    level = contrast.rows(outside, raw["image"])
    image = contrast.normalise(raw["image"], raw["stats"]) - level  # outside is 0

    def bent(where: jax.Array) -> jax.Array:
        moved = warp.displace(raw["nodes"], shape, elastic_spacing)
        return where + jnp.matmul(moved, raw["matrix"][:, :-1].T, precision=EXACT)

    def uneven(image: jax.Array) -> jax.Array:
        gain = warp.displace(raw["gain_nodes"][None], shape, max(shape))[..., 0]
        return contrast.bias_field(image, gain, raw["gain_strength"], outside)

    sigma, resolution = (
        jnp.broadcast_to(raw[name], len(shape)) for name in ("sigma_voxels", "resolution")
    )

    def smooth(image: jax.Array) -> jax.Array:
        lines = zip(shape, sigma, resolution, strict=True)
        return along_axes(image, [smoothing(*line) for line in lines])

    where = warp.places(raw["matrix"], shape)
    where = _where_drawn(jnp.any(raw["nodes"] != 0), bent, where)
    image, mask = _moved(image, raw["mask"], where, raw.get("block"))
    image = contrast.scale_and_shift(image + level, raw["factors"], raw["shifts"])
    exponents, noise_std = raw["exponents"], raw["noise_std"]
    bend = functools.partial(contrast.gamma, exponents=exponents)
    image = _where_drawn(jnp.any(exponents != 1), bend, image)
    image = _where_drawn(raw["gain_strength"] != 0, uneven, image)
    image = _where_drawn(jnp.any((sigma > 0) | (resolution < 1)), smooth, image)
    add_noise = functools.partial(contrast.noise, seed=raw["noise_seed"], std=noise_std)
    return {"image": _where_drawn(noise_std > 0, add_noise, image), "mask": mask}


def _where_drawn(
    drawn: jax.Array, change: Callable[[jax.Array], jax.Array], x: jax.Array
) -> jax.Array:
    """Return change(x), or x itself where the change was not drawn and would change nothing.

    Of samples taken together all are computed, and chosen from.
    """
    return jax.lax.cond(drawn, change, lambda x: x, x)


def _moved(
    image: jax.Array, mask: jax.Array, where: jax.Array, block: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Sample an image linearly and its masks, 0 outside: of slices the nearest, as on the host.

    In volumes, whose voxels differ in size, each mask is sampled by itself, linearly, and holds
    where at least half is inside. An image to be shrunk is averaged first over blocks [n].
    """
    if len(where.shape) == 3:
        mask = warp.nearest(mask, where)
        if block is not None:
            image = _where_drawn(block[0] > 1, lambda image: _averaged(image, block), image)
            where = (where + 0.5) / block.reshape(1, 1, 2) - 0.5
        return warp.sample(image, where), mask
    channels = image.shape[-1]
    both = jnp.concatenate([image, mask.astype(jnp.float32)], axis=-1)
    both = warp.sample(both, where)
    return both[..., :channels], (both[..., channels:] >= 0.5).astype(jnp.uint8)


def _averaged(image: jax.Array, block: jax.Array) -> jax.Array:
    """Return the means over blocks [n] of a slice, 0 beyond them."""
    sizes = image.shape[:-1]
    halves = [-(-size // 2) for size in sizes]  # blocks have sides of 1 or of nearly 2 or more
    matrices = [averaging(*line) for line in zip(sizes, halves, block, strict=True)]
    beyond = [(0, size - half) for size, half in zip(sizes, halves, strict=True)]
    return jnp.pad(along_axes(image, matrices), [*beyond, (0, 0)])


def augment(raw: Batch, *, config: Config, together: bool = True) -> dict[str, jax.Array]:
    """Return a batch of samples; what is not of `augment_one` is passed on.

    Args:
        raw: a batch of what `augment_one` takes.
        config: uses input.image_size and augment.elastic_smoothness.
        together: change all samples at once, as a GPU or TPU likes it, rather than one after the
            other, where a CPU leaves out what was not drawn.
    """
    shape = config.input.image_size
    spacing = config.augment.elastic_smoothness * max(shape)
    own = {name: value for name, value in raw.items() if name != "stop"}
    one = functools.partial(augment_one, shape=shape, elastic_spacing=spacing)
    made = jax.vmap(one)(own) if together else jax.lax.map(one, own)
    return made | ({"stop": raw["stop"]} if "stop" in raw else {})


def on_device(config: Config) -> bool:
    """Return whether the device changes the samples, or the host does: `input.augment_on`.

    Patches of volumes always come raw. `auto` leaves slices to the host where the host is the
    device, and where they are sampled cubically.
    """
    if len(config.input.image_size) == 3:
        return True
    if config.input.augment_on == "auto":
        return jax.default_backend() != "cpu" and not config.augment.cubic
    return config.input.augment_on == "device"


def make_feed(config: Config, mesh: Mesh) -> Callable[[Mapping[str, np.ndarray]], Batch]:
    """Return what takes a batch from the host to the devices, ready for the training step.

    Raw batches are changed by a program of its own, which runs ahead of the step.
    """
    if not on_device(config):
        return lambda batch: to_global(batch, mesh)
    bound = jit_augment(config, mesh)
    return lambda batch: bound(place_raw(batch, mesh))


def jit_augment(config: Config, mesh: Mesh) -> Callable[[Batch], Batch]:
    """Return the compiled `augment` (raw batch) -> batch, its images split as the step's."""
    images, samples = split_images(mesh), split_batch(mesh)
    out = {"image": images, "mask": images, "stop": samples}
    together = mesh.size > 1 or mesh.devices.flat[0].platform != "cpu"
    changed = functools.partial(augment, config=config, together=together)
    return jax.jit(changed, out_shardings=out, compiler_options=small_options())


def place_raw(batch: Mapping[str, np.ndarray], mesh: Mesh) -> Batch:
    """Put this process's part of a raw batch on the devices, whole samples on each."""
    place = functools.partial(jax.make_array_from_process_local_data, split_batch(mesh))
    return jax.tree.map(place, dict(batch))
