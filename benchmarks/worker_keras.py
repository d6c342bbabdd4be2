"""Worker: Keras 3 on TensorFlow or JAX on the common work, trained by `train_on_batch`."""

import time

_START = time.perf_counter()

import importlib.metadata  # noqa: E402 (the clock starts before the imports)
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

BACKEND = json.loads(sys.argv[1])["backend"]
os.environ["KERAS_BACKEND"] = BACKEND
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
from keras import ops  # noqa: E402

_IMPORTED = time.perf_counter()

from benchmarks import workload  # noqa: E402
from benchmarks.protocol import Actions, peak_memory_bytes, serve  # noqa: E402


def block(x: Any, features: int, name: str) -> Any:
    """Twice convolution 3x3, batch norm, ReLU."""
    for i in (1, 2):
        conv = keras.layers.Conv2D(
            features, 3, padding="same", use_bias=False, name=f"{name}.conv_{i}"
        )
        norm = keras.layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, name=f"{name}.norm_{i}.batch"
        )
        x = keras.layers.ReLU()(norm(conv(x)))
    return x


def unet(size: int, features: int) -> keras.Model:
    """Return the classic U-Net, images to logits."""
    wide, depth = workload.widths(features), workload.LEVELS - 1
    inputs = x = keras.Input((size, size, workload.CHANNELS))
    skips = []
    for level in range(depth):
        skips.append(block(x, wide[level], f"down_{level}"))
        x = keras.layers.MaxPooling2D(2)(skips[-1])
    x = block(x, wide[depth], "bottleneck")
    for level in reversed(range(depth)):
        name = f"grow_{level}.upconv"
        x = keras.layers.Conv2DTranspose(wide[level], 2, strides=2, name=name)(x)
        x = keras.layers.Concatenate()([skips[level], x])
        x = block(x, wide[level], f"up_{level}")
    logits = keras.layers.Conv2D(1, 1, dtype="float32", name="logits_0")(x)
    return keras.Model(inputs, logits)


def load_weights(model: keras.Model, features: int):
    """Give the model the common weights."""
    weights = workload.make_weights(features)
    for name in list(weights):
        if name.endswith("upconv/kernel"):  # flax keeps it mirrored
            weights[name] = weights[name][::-1, ::-1].transpose(0, 1, 3, 2)
    names = {"kernel": "kernel", "bias": "bias", "gamma": "scale", "beta": "bias"}
    for layer in model.layers:
        for variable in layer.trainable_variables:
            path = layer.name.replace(".", "/") + "/" + names[variable.name]
            variable.assign(weights.pop(path))
    assert not weights, f"nothing takes {sorted(weights)}"


def loss_fn(mask: Any, logits: Any) -> Any:
    """Return BCE + Dice, the sums of Dice taken over the whole batch."""
    bce = ops.mean(ops.binary_crossentropy(mask, logits, from_logits=True))
    p, smooth = ops.sigmoid(logits), workload.DICE_SMOOTH
    overlap = (2 * ops.sum(p * mask) + smooth) / (ops.sum(p) + ops.sum(mask) + smooth)
    return bce + 1 - overlap


def memory_growth():
    """Let TensorFlow take device memory as it needs it, since others share the device."""
    if BACKEND == "tensorflow":
        import tensorflow

        for device in tensorflow.config.list_physical_devices("GPU"):
            tensorflow.config.experimental.set_memory_growth(device, True)


def make(settings: dict[str, Any]) -> tuple[dict[str, Any], Actions]:
    """Make model, batch and steps; see `protocol.serve`."""
    memory_growth()
    if settings["dtype"] == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = unet(settings["size"], settings["features"])
    load_weights(model, settings["features"])
    model.compile(
        keras.optimizers.Adam(workload.LEARNING_RATE, epsilon=1e-8),
        loss_fn,
        jit_compile=settings["jit"],
    )
    image, mask = map(
        ops.convert_to_tensor, workload.make_batch(settings["batch"], settings["size"])
    )

    def train() -> dict[str, Any]:
        for _ in range(settings["steps"]):
            loss = model.train_on_batch(image, mask)
        return {"loss": float(loss)}

    def forward() -> dict[str, Any]:
        for _ in range(settings["steps"]):
            probability = ops.sigmoid(model.predict_on_batch(image))
        return {"mean": float(ops.mean(probability))}

    def save() -> dict[str, Any]:
        folder = Path(settings["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        model.save(folder / f"{len(list(folder.iterdir()))}.keras")
        return {}

    hello = {
        "import_seconds": _IMPORTED - _START,
        "parameters": count(model),
        "device": settings["backend"],
        "versions": {n: importlib.metadata.version(n) for n in ("keras", BACKEND)},
    }
    memory = {"memory": lambda: {"host_bytes": peak_memory_bytes(), "device_bytes": None}}
    return hello, {"train": train, "forward": forward, "save": save} | memory


def count(model: keras.Model) -> int:
    """Return the number of trainable parameters."""
    return sum(int(ops.size(v)) for v in model.trainable_variables)


if __name__ == "__main__":
    serve(make)
