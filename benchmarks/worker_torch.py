"""Worker: PyTorch on the common work; channels last or contiguous, eager or compiled."""

import time

_START = time.perf_counter()

import importlib.metadata  # noqa: E402 (the clock starts before the imports)
import os  # noqa: E402
import shutil  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

_IMPORTED = time.perf_counter()

from benchmarks import torch_unet, workload  # noqa: E402
from benchmarks.protocol import Actions, peak_memory_bytes, serve  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make_model(settings: dict[str, Any]) -> torch.nn.Module:
    """Return the common U-Net with the common weights, or MONAI's own network."""
    features = settings["features"]
    if settings.get("network") == "monai":
        from monai.networks.nets import BasicUNet

        wide = (*workload.widths(features), features)
        model = BasicUNet(2, workload.CHANNELS, 1, wide, norm="batch", act="relu")
    else:
        kind = workload.kind_of(settings)
        model = torch_unet.UNet(features, kind)
        torch_unet.load_weights(model, workload.make_weights(features, kind))
    return model.to(DEVICE, memory_format=memory_format(settings))


def memory_format(settings: dict[str, Any]) -> torch.memory_format:
    """Return how the channels lie in memory."""
    if not settings["channels_last"]:
        return torch.contiguous_format
    return torch.channels_last_3d if workload.kind_of(settings).rank == 3 else torch.channels_last


def synchronise():
    """Wait for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def make(settings: dict[str, Any]) -> tuple[dict[str, Any], Actions]:
    """Make model, batch and steps; see `protocol.serve`."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.backends.cudnn.benchmark = True
    model = make_model(settings)
    made = workload.make_batch(settings["batch"], settings["size"], workload.kind_of(settings))
    image, mask = (torch.from_numpy(x).movedim(-1, 1) for x in made)
    on_host = image.contiguous(memory_format=memory_format(settings))
    image, mask = on_host.to(DEVICE), mask.to(DEVICE)
    fused = DEVICE == "cuda"  # the fastest there
    optimizer = torch.optim.Adam(model.parameters(), workload.LEARNING_RATE, fused=fused)
    half = settings["dtype"] == "bfloat16"
    cast = torch.autocast(DEVICE, torch.bfloat16, enabled=half)
    run = model
    if settings.get("compile"):
        if DEVICE == "cpu" and not shutil.which("g++"):
            raise RuntimeError("torch.compile needs g++")
        run = torch.compile(model)

    def train() -> dict[str, Any]:
        model.train()
        for _ in range(settings["steps"]):
            optimizer.zero_grad(set_to_none=True)
            with cast:
                logits = run(image)
            loss = torch_unet.loss_fn(logits, mask)
            loss.backward()
            optimizer.step()
        synchronise()
        return {"loss": loss.item()}

    def forward() -> dict[str, Any]:
        model.eval()
        with torch.inference_mode(), cast:
            for _ in range(settings["steps"]):
                probability = torch.sigmoid(run(image))
        synchronise()
        return {"mean": probability.float().mean().item()}

    def evaluate() -> dict[str, Any]:
        model.eval()
        total = 0.0
        with torch.inference_mode(), cast:
            for start in range(0, workload.EVALUATED_SLICES, len(image)):
                part = on_host[: workload.EVALUATED_SLICES - start].to(DEVICE)
                total += torch.sigmoid(run(part)).cpu().float().mean().item()
        return {"mean": total}

    def save() -> dict[str, Any]:
        folder = Path(settings["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, folder / f"{len(list(folder.iterdir()))}.pt")
        return {}

    hello = {
        "import_seconds": _IMPORTED - _START,
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
        "versions": versions("torch", "monai"),
    }
    actions = {"train": train, "forward": forward, "evaluate": evaluate, "save": save}
    actions["volumes"] = train
    return hello, actions | {"memory": memory, "matmul": matmul}


def versions(*names: str) -> dict[str, str]:
    """Return the versions of those that are installed."""
    installed = {d.name.lower(): d.version for d in importlib.metadata.distributions()}
    return {name: installed[name] for name in names if name in installed}


def memory() -> dict[str, Any]:
    """Return the peak memory of this process, and of the device."""
    device = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None
    return {"host_bytes": peak_memory_bytes(), "device_bytes": device}


def matmul() -> dict[str, Any]:
    """Return the operations per second of a large square product."""
    n, dtype = (2048, torch.float32) if DEVICE == "cpu" else (8192, torch.bfloat16)
    a = torch.ones((n, n), dtype=dtype, device=DEVICE)
    a @ a
    synchronise()
    start = time.perf_counter()
    for _ in range(10):
        a @ a
    synchronise()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "flops_per_second": 20.0 * n**3 / seconds}


if __name__ == "__main__":
    serve(make)
