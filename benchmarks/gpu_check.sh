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

# The same steps on the accelerator and on the CPU: the curves must agree but for rounding.
both() { # name, training arguments
  local name=$1 steps=(--config.train.num_steps=60 --config.train.eval_every_steps=30)
  shift
  for platform in "" cpu; do # "": the accelerator
    JAX_PLATFORMS=$platform $python -m jaxseg.train --workdir "$out/$name${platform:+.$platform}" \
      "$@" "${steps[@]}" --config.train.log_every_steps=5
  done
  paste -d'\n' "$out/$name/metrics.jsonl" "$out/$name.cpu/metrics.jsonl"
}
both unet_60 --config configs/unet.py
if [ -n "${LGG:-}" ]; then
  both lgg_60 --config configs/lgg_cpu.py --config.dataset.source="$LGG"
  time $python -m jaxseg.train --config configs/lgg.py --workdir "$out/lgg" \
    --config.dataset.source="$LGG"
fi
