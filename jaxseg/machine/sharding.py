"""The device mesh and how arrays lie on it: the one file that decides.

Three axes: `data` and `fsdp` both split the batch; `fsdp` also splits parameters, optimiser
state and average (Zhao et al., 2023, PyTorch FSDP, arXiv:2304.11277); `spatial` splits the
rows of the images (the slices of volumes), where XLA exchanges the rows at the seams.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxseg.config import Config
from jaxseg.config import Mesh as MeshConfig
from jaxseg.errors import UserError

_BATCH = ("data", "fsdp")


def make_mesh(
    config: MeshConfig | None = None, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Return the mesh over the devices (default: all of all hosts).

    Args:
        config: sizes of the axes; None: all devices along `data`.
        devices: to use.

    Raises:
        UserError: the sizes do not fit the number of devices, or images would be split over
            hosts.
    """
    config = MeshConfig() if config is None else config
    devices = jax.devices() if devices is None else devices
    inner = config.fsdp * config.spatial
    data = len(devices) // inner if config.data == -1 else config.data
    if data * inner != len(devices) or data == 0:
        raise UserError(
            f"config.mesh: data={config.data} x fsdp={config.fsdp} x spatial={config.spatial} does "
            f"not fit {len(devices)} devices; data=-1 takes what the others leave"
        )
    # Axis type Explicit, the default, has no rule for the gradient of a convolution.
    mesh = jax.make_mesh(
        (data, config.fsdp, config.spatial),
        (*_BATCH, "spatial"),
        axis_types=(AxisType.Auto,) * 3,
        devices=devices,
    )
    hosts = [{d.process_index for d in part} for part in mesh.devices.reshape(-1, config.spatial)]
    if any(len(host) > 1 for host in hosts):
        raise UserError(f"config.mesh.spatial={config.spatial}: must fit the devices of one host")
    return mesh


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array that lies whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays by sample: [B] and [B, ...]."""
    return NamedSharding(mesh, PartitionSpec(_BATCH))


def split_images(mesh: Mesh) -> NamedSharding:
    """Return the sharding of images and masks: [B, rows, ...]."""
    return NamedSharding(mesh, PartitionSpec(_BATCH, "spatial"))


def split_state(abstract: Any, mesh: Mesh, min_size: int) -> Any:
    """Return the sharding of each array of the state: over `fsdp`, where that is worth it.

    An array with min_size elements or more is split along its largest axis that divides; all
    others lie whole on every device.

    Args:
        abstract: tree of arrays or `jax.ShapeDtypeStruct`.
        mesh: from `make_mesh`.
        min_size: number of elements.

    Returns:
        The same tree of NamedSharding.
    """
    return jax.tree.map(lambda x: NamedSharding(mesh, _split(x.shape, mesh, min_size)), abstract)


def gather_before_use(mesh: Mesh) -> NamedSharding | None:
    """Return the sharding that the step gives parameters before their use; None: XLA chooses.

    Where both parameters and images are split, XLA (seen with jax 0.10.2) may get the image's
    gradient of a 3D convolution wrong: it is right with whole kernels.
    """
    both = mesh.shape["fsdp"] > 1 and mesh.shape["spatial"] > 1
    return replicated(mesh) if both else None


def whole_arrays(abstract: Any, mesh: Mesh, min_size: int) -> list[str]:
    """Return name and shape of the large arrays that `split_state` could not split."""
    if mesh.shape["fsdp"] == 1:
        return []
    return [
        f"{jax.tree_util.keystr(path, simple=True, separator='.')} {x.shape}"
        for path, x in jax.tree_util.tree_leaves_with_path(abstract)
        if math.prod(x.shape) >= min_size and not any(_split(x.shape, mesh, min_size))
    ]


def _split(shape: tuple[int, ...], mesh: Mesh, min_size: int) -> PartitionSpec:
    parts = mesh.shape["fsdp"]
    divisible = [axis for axis, length in enumerate(shape) if length % parts == 0]
    if parts == 1 or math.prod(shape) < min_size or not divisible:
        return PartitionSpec()
    largest = max(divisible, key=lambda axis: shape[axis])
    return PartitionSpec(*("fsdp" if axis == largest else None for axis in range(len(shape))))


def check_fits(config: Config, mesh: Mesh):
    """Raise UserError unless batches and images divide over the mesh and the hosts."""
    parts, spatial = mesh.shape["data"] * mesh.shape["fsdp"], mesh.shape["spatial"]
    accumulate, size = config.train.accumulate, config.input.image_size
    many = f"the {parts} devices" if spatial == 1 else f"the {parts} parts of config.mesh"
    if config.train.batch_size % (parts * accumulate):
        times = f" x config.train.accumulate={accumulate}" if accumulate > 1 else ""
        value = f"config.train.batch_size={config.train.batch_size}"
        raise UserError(f"{value}: must be a multiple of {many}{times}")
    if config.evaluation.batch_size % parts:
        raise UserError(
            f"config.evaluation.batch_size={config.evaluation.batch_size}: must be a multiple of "
            f"{many}"
        )
    if size[0] % spatial:
        split = f"{size[0]} {'rows of the images' if len(size) == 2 else 'slices of the patches'}"
        raise UserError(f"config.mesh.spatial={spatial}: must divide the {split}")


def to_global(batch: Any, mesh: Mesh) -> Any:
    """Make global arrays [B, ...] of this process's part of a batch, [B / processes, ...].

    Leaves of two or more axes are taken for images.
    """

    def put(x: np.ndarray) -> jax.Array:
        sharding = split_images(mesh) if x.ndim > 1 else split_batch(mesh)
        return jax.make_array_from_process_local_data(sharding, x)

    return jax.tree.map(put, batch)


def shardings(tree: Any) -> Any:
    """Return the sharding of every array, or `jax.ShapeDtypeStruct`, of a tree."""
    return jax.tree.map(lambda x: x.sharding, tree)
