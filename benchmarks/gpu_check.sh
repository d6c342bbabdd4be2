#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: install, time the step, train on the phantom and, when
# LGG=/path/to/kaggle_3m is given, the full LGG recipe. Writes everything under ./gpu_check.
#   benchmarks/gpu_check.sh            (EXTRA=tpu on a TPU VM)
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/gpu_check
mkdir -p "$out"
exec > >(tee "$out/log.txt") 2>&1

python3 -m venv "$out/venv"
"$out/venv/bin/pip" install --quiet ".[${EXTRA:-cuda}]"
python=$out/venv/bin/python

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv || true
$python -c 'import jax; print(jax.__version__, jax.devices())'
for dtype in float32 bfloat16; do
  $python benchmarks/step.py --config configs/lgg.py --config.dataset.source=none \
    --config.model.compute_dtype=$dtype
done
time $python -m jaxseg.train --config configs/unet.py --workdir "$out/unet"
JAX_PLATFORMS=cpu $python -m jaxseg.train --config configs/unet.py --workdir "$out/unet_cpu" \
  --config.train.num_steps=30 --config.train.eval_every_steps=30
paste -d'\n' <(head -n 3 "$out/unet/metrics.jsonl") <(head -n 3 "$out/unet_cpu/metrics.jsonl")
if [ -n "${LGG:-}" ]; then
  time $python -m jaxseg.train --config configs/lgg.py --workdir "$out/lgg" \
    --config.dataset.source="$LGG"
fi
