#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: install, benchmark against PyTorch on the same card, profile the
# step, train on the phantom and, when LGG=/path/to/kaggle_3m is given, the full LGG recipe.
# Writes everything under ./gpu_check.
#   LGG=/path/to/kaggle_3m benchmarks/gpu_check.sh    (EXTRA=tpu PEERS= on a TPU VM)
# Elsewhere its parts can be tried in small:
#   EXTRA= STEPS="--sizes 64 --batch 4" INPUT="--sizes 64" PROFILE="--size 64" benchmarks/gpu_check.sh
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/gpu_check
mkdir -p "$out"
exec > >(tee "$out/log.txt") 2>&1

extra=${EXTRA-cuda}
python3 -m venv "$out/venv"
"$out/venv/bin/pip" install --quiet ".${extra:+[$extra]}"
python=$out/venv/bin/python

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv || true
$python -c 'import jax; print(jax.__version__, jax.devices())'

# Float32 and bfloat16 (PyTorch: AMP), one process on the card at a time; then what the host does.
peers=${PEERS-pytorch}
all_steps="--sizes 256 --batch 32,64,128,256 --forward-batch 1,32,256 --steps 20"
read -ra steps <<<"${STEPS-$all_steps}"
read -ra input <<<"${INPUT---sizes 256 --workers 1,4,8,16}"
read -ra profile <<<"${PROFILE---batch 128 --steps 10}"
$python -m benchmarks.run --only matmul,train,forward --peers "$peers" --alone \
  --dtypes float32,bfloat16 "${steps[@]}" --output "$out/steps.json"
$python -m benchmarks.run --only evaluate,input,save,start --peers "${peers:+$peers,albumentations}" \
  --rounds 5 "${input[@]}" --output "$out/host.json"
$python -m benchmarks.profile_step --dtype bfloat16 "${profile[@]}" \
  --output "$out/profile"
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
