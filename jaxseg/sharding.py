"""The device mesh and how arrays lie on it."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg.errors import UserError


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """Return a mesh with one axis, `data`, over the devices (default: all of all hosts)."""
    return Mesh(np.array(jax.devices() if devices is None else devices), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of the train state: a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: its first axis over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, mesh: Mesh, setting: str):
    """Raise UserError unless the global batch divides over the devices and hosts."""
    if batch_size % mesh.size:
        raise UserError(
            f"config.{setting}={batch_size}: must be a multiple of the {mesh.size} devices"
        )


def to_global(batch: Any, mesh: Mesh) -> Any:
    """Make global arrays of this host's part of a batch: leaves [B / hosts, ...] -> [B, ...]."""
    sharding = split_batch(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
