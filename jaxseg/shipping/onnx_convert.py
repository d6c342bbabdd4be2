"""Convert a network to ONNX; runs in a Python that has jax2onnx, onnxruntime and flax.

python -m jaxseg.shipping.onnx_convert JOB OUTPUT: JOB is an npz of `onnx_export`, OUTPUT an
ONNX file.
Prints a line of JSON: the largest difference of onnxruntime from the probabilities in JOB.
"""

import functools
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.config.settings import from_dict
from jaxseg.models import native
from jaxseg.models.apply import Weights, predict_probabilities
from jaxseg.models.unet import UNet
from jaxseg.shipping.portable import segment_slices

_EXAMPLE = ("image", "stats", "box", "probability")


def make_function(job: dict[str, Any], weights: Weights):
    """Return the function to convert: (image, stats[, box]) -> (probability, mask).

    Args:
        job: config (as in config.json), temperature, threshold, flip, native_size.
        weights: of the network.
    """
    config = from_dict(job["config"])
    network = functools.partial(
        predict_probabilities, weights, model=UNet(config.model), flip=job["flip"]
    )
    temperature = np.float32(job["temperature"])
    frame = jnp.array([0, 0, *job["native_size"]], jnp.int32)

    def function(image: jax.Array, stats: jax.Array, box: jax.Array = frame):
        probability = segment_slices(
            image,
            stats,
            box,
            predict=lambda x: network(x, temperature=temperature),
            image_size=tuple(config.input.image_size),
        )[..., 0]
        return probability, probability >= job["threshold"]

    return function


def unflatten(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the tree of arrays whose names are paths, such as params/down_0/conv_1/kernel."""
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        *folders, name = path.split("/")
        functools.reduce(lambda node, key: node.setdefault(key, {}), folders, tree)[name] = array
    return tree


def read_job(path: str) -> tuple[dict[str, Any], Weights, dict[str, np.ndarray]]:
    """Return settings, weights and the example: inputs by name and in order, and probability."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    job = json.loads(str(arrays.pop("job")))
    tree = unflatten(arrays)
    example = tree["example"]
    ordered = {name: example[name] for name in _EXAMPLE if name in example}
    return job, Weights(tree["params"], tree.get("batch_stats", {})), ordered


def convert(job: dict[str, Any], weights: Weights, example: dict[str, np.ndarray], output: str):
    """Write the ONNX file, with the metadata as its properties."""
    import onnx
    from jax2onnx import to_onnx

    inputs = [
        jax.ShapeDtypeStruct(("B", *x.shape[1:]) if name == "image" else x.shape, x.dtype)
        for name, x in example.items()
    ]
    with native.plain_operations():  # ONNX does not have what this machine alone has
        model = to_onnx(
            make_function(job, weights),
            inputs,
            input_names=list(example),
            output_names=["probability", "mask"],
        )
    del model.graph.value_info[:]  # shapes of the inside, which the converter confuses
    for key, value in job["metadata"].items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, output)


def difference(output: str, example: dict[str, np.ndarray], probability: np.ndarray) -> float:
    """Return the largest difference of onnxruntime from probability [B, H, W], slices together
    and one by one.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    together, _ = session.run(None, example)
    singly = [
        session.run(None, example | {"image": image[None]})[0][0] for image in example["image"]
    ]
    return max(float(np.abs(x - probability).max()) for x in (together, np.stack(singly)))


def main(path: str, output: str):
    """Run the program; see the top of the file."""
    job, weights, example = read_job(path)
    probability = example.pop("probability")
    convert(job, weights, example, output)
    print(json.dumps({"difference": difference(output, example, probability)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
