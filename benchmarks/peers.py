"""What is measured: each implementation, its environment, its worker and what it can do."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way of doing the work."""

    name: str  # unique within a task
    peer: str  # what the user asks for by --peers; one peer may have several implementations
    environment: str  # name of its folder; "": the one this program runs in
    requirements: tuple[str, ...]  # of pip, installed into the environment where missing
    worker: str  # module
    tasks: tuple[str, ...]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    note: str = ""  # said below the table


_STEPS = ("train", "forward", "save", "start")
_TORCH = ("pytorch", "torch", ("torch", "numpy"), "benchmarks.worker_torch")
_KERAS = ("keras", ("tensorflow", "keras", "jax", "numpy"), "benchmarks.worker_keras")
_JAXSEG = ("jaxseg", "jaxseg", "", ())

IMPLEMENTATIONS = (
    Implementation(*_JAXSEG, "benchmarks.worker_jaxseg", (*_STEPS, "volumes", "matmul")),
    Implementation(*_JAXSEG, "benchmarks.worker_evaluation", ("evaluate",)),
    Implementation(*_JAXSEG, "benchmarks.worker_input_jaxseg", ("input",), {"processes": False}),
    Implementation(
        "jaxseg_processes",
        *_JAXSEG[1:],
        "benchmarks.worker_input_jaxseg",
        ("input",),
        {"processes": True},
        "jaxseg: threads of one process; the others: loader processes",
    ),
    Implementation(
        "pytorch_channels_last",
        *_TORCH,
        (*_STEPS, "volumes", "matmul", "evaluate"),
        {"channels_last": True},
    ),
    Implementation(
        "pytorch_contiguous", *_TORCH, ("train", "volumes", "forward"), {"channels_last": False}
    ),
    Implementation(
        "pytorch_compile",
        *_TORCH,
        ("train", "volumes", "forward", "start"),
        {"channels_last": True, "compile": True},
        "pytorch_compile: torch.compile, channels_last",
    ),
    Implementation(
        "monai",
        "monai",
        "torch",
        ("torch", "numpy", "monai"),
        "benchmarks.worker_torch",
        ("train", "forward"),
        {"channels_last": True, "network": "monai"},
        "monai: its BasicUNet, a network of its own (the same widths, convolutions with biases)",
    ),
    Implementation(
        "keras_tensorflow",
        "keras_tensorflow",
        *_KERAS,
        _STEPS,
        {"backend": "tensorflow", "jit": False},
        "keras_tensorflow: train_on_batch, jit_compile=False",
    ),
    Implementation(
        "keras_tensorflow_xla",
        "keras_tensorflow",
        *_KERAS,
        ("train", "forward"),
        {"backend": "tensorflow", "jit": True},
    ),
    Implementation("keras_jax", "keras_jax", *_KERAS, _STEPS, {"backend": "jax", "jit": True}),
    Implementation(
        "albumentations",
        "albumentations",
        "torch",
        ("torch", "numpy", "albumentations", "opencv-python-headless"),
        "benchmarks.worker_input_torch",
        ("input",),
    ),
)
PEERS = tuple(dict.fromkeys(i.peer for i in IMPLEMENTATIONS if i.peer != "jaxseg"))


def select(task: str, peers: tuple[str, ...]) -> tuple[Implementation, ...]:
    """Return jaxseg and the implementations of the peers (or single ones by name) for a task."""
    wanted = {"jaxseg", *peers}
    return tuple(
        i for i in IMPLEMENTATIONS if task in i.tasks and (i.peer in wanted or i.name in wanted)
    )
