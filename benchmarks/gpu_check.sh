#!/usr/bin/env bash
# On a machine with an NVIDIA GPU, also without a network: what the card makes of jaxseg, in ten
# minutes, the most important first.
#   benchmarks/gpu_check.sh [--output FOLDER] [--scans kaggle_3m] [--minutes 9.5] [--parts a,b]
# Where jaxseg's needs are not installed, WHEELS=FOLDER names their wheels. Results are in
# FOLDER/results.jsonl at once, then in summary.txt; a second call goes on where the first ended.
# --small rehearses it on a CPU in two minutes. --help says more.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if [ -n "${WHEELS:-}" ]; then
  site=${SITE:-${TMPDIR:-/tmp}/jaxseg_gpu_site}
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$site" "$WHEELS"/*.whl
  export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
exec "$python" -m benchmarks.gpu_check "$@"
