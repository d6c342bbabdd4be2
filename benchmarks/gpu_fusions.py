"""What XLA makes of a training step for an H100, on a machine without one: kernels and their bytes.

    python -m benchmarks.gpu_fusions [volume] [float32] [deterministic]

Needs jax with its CUDA wheels (pip install "jax[cuda13]"), of no use without a card otherwise.
Nothing is autotuned, so convolutions say nothing; all else is bound by memory, and is what runs on
a card. JAXSEG_GPU=plain shows XLA's own operations.
"""

import math
import os
import re
import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from jaxseg.config import Config, Input, Model, Train
from jaxseg.machine import compiler
from jaxseg.machine.sharding import make_mesh
from jaxseg.models import native
from jaxseg.training.ahead import abstract_batch
from jaxseg.training.state import abstract_state
from jaxseg.training.steps import jit_train_step

RATE = 2.86e12  # bytes a second that an H100 was seen to copy

# As XLA describes a card to itself (GpuTargetConfigProto): what its fusion reckons with.
CARD = """
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3" device_vendor: "NVIDIA Corporation"
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  platform_version: "Compute Capability 9.0a" device_address_bits: 64
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  memory_bandwidth: 3352320000000 device_memory_size: 84942979072 l2_cache_size: 52428800
  pcie_bandwidth: 34359738368 ecc_enabled: true
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.19.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 19 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

_SIZES = {"bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "s8": 1, "u8": 1, "pred": 1}
_SHAPE = re.compile(rf"\b({'|'.join(_SIZES)})\[([\d,]*)\]")
_LINE = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (\([^=]*?\)|\S+) ([\w-]+)\((.*)")
_FREE = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant")
_WINDOW = 8  # elements of an operand that an element of the result depends on, at most


class Kernel(NamedTuple):
    """One kernel of a compiled program."""

    bytes: int  # read and written
    kind: str  # of fusion, or what it calls
    name: str
    shape: str  # of the result
    place: str  # in the model


def arrays(text: str) -> list[tuple[int, int]]:
    """Return number of elements and bytes of each array in a shape, as XLA writes it."""
    found = []
    for kind, sizes in _SHAPE.findall(text):
        elements = math.prod(int(size) for size in sizes.split(",") if size)
        found.append((elements, elements * _SIZES[kind]))
    return found


def kernels(text: str) -> list[Kernel]:
    """Return the kernels of a compiled program's text, the one with the most bytes first."""
    entry = text[text.index("\nENTRY ") :]
    shapes, found = {}, []
    for line in entry.splitlines()[1:]:
        if not (match := _LINE.match(line)):
            continue
        name, shape, operation, rest = match.groups()
        shapes[name] = shape
        if operation in _FREE:
            continue
        made = arrays(shape)
        operands = re.findall(r"%([\w.-]+)", rest.split("), ")[0])
        read = [a for operand in operands for a in arrays(shapes.get(operand, ""))]
        kind = re.search(r"kind=(\w+)|custom_call_target=\"([^\"]+)\"", rest)
        kind = (kind[1] or kind[2]) if kind else operation
        if kind == "kLoop":  # may read a part of an operand: so much of it at most
            most = _WINDOW * max((n for n, _ in made), default=0)
            read = [(n, b * min(1, most / n)) for n, b in read if n]
        place = re.search(r'op_name="([^"]*)"', rest)
        spent = sum(b for _, b in made) + sum(b for _, b in read)
        found.append(Kernel(int(spent), kind, name, shape.split("{")[0], place[1] if place else ""))
    return sorted(found, key=lambda kernel: -kernel.bytes)


def compiled_step(words: Sequence[str]) -> str:
    """Return the text of the compiled training step."""
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # there is no driver
    native.problem = lambda: "for a GPU"  # this CPU's operations are not meant
    jax.default_backend = lambda: "gpu"
    card = topologies.get_topology_desc("H100", "cuda", target_config=CARD, topology="1x1x1")
    volume = "volume" in words
    dtype = "float32" if "float32" in words else "bfloat16"
    config = Config(
        model=Model(
            widths=(32, 64, 128, 256, 512),
            norm="instance" if volume else "batch",
            compute_dtype=dtype,
        ),
        input=Input(image_size=(128,) * 3 if volume else (256, 256)),
        train=Train(batch_size=2 if volume else 32, deterministic="deterministic" in words),
    )
    mesh, channels = make_mesh(config.mesh, devices=card.devices), 4 if volume else 3
    state = abstract_state(config, channels, mesh)
    options = compiler.network_options(config.train.deterministic)
    program = jit_train_step(config, state, mesh).lower(
        state, abstract_batch(config, channels, mesh)
    )
    return program.compile(compiler_options=options | {"xla_gpu_autotune_level": 0}).as_text()


def main(words: Sequence[str]):
    """Print sums by kind, then the largest kernels."""
    found = kernels(compiled_step(words))
    kinds: dict[str, int] = {}
    for kernel in found:
        kinds[kernel.kind] = kinds.get(kernel.kind, 0) + kernel.bytes
    for kind, spent in sorted(kinds.items(), key=lambda item: -item[1]):
        print(f"{spent / 1e9:8.2f} GB {1e3 * spent / RATE:8.3f} ms  {kind}")
    for kernel in found[:50]:
        took, place = 1e3 * kernel.bytes / RATE, kernel.place[-70:]
        print(f"{took:8.3f} ms  {kernel.kind:8} {kernel.name:36} {kernel.shape:32} {place}")


if __name__ == "__main__":
    main(sys.argv[1:])
