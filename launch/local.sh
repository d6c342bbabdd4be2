#!/usr/bin/env bash
# Make an environment beside the code if there is none, then train on this machine:
#   launch/local.sh --config configs/unet.py [--config.a.b=VALUE ...]
# EXTRA=cuda or EXTRA=tpu installs jax for that device; DRY_RUN=1 only prints the commands.
# .venv/bin/python -m jaxseg.train --help lists the settings.
set -euo pipefail
case ${1:-} in -h | --help) sed -nE '2,/^[^#]/s/^#( |$)//p' "$0" && exit ;; esac
cd "$(dirname "$0")/.."

run() {
  printf '+' && printf ' %q' "$@" && printf '\n'
  if [ -z "${DRY_RUN:-}" ]; then "$@"; fi
}

if ! .venv/bin/python -c 'import jaxseg' 2>/dev/null; then
  run python3 -m venv .venv
  run .venv/bin/pip install --quiet ".${EXTRA:+[$EXTRA]}"
fi
run exec .venv/bin/python -m jaxseg.train "$@"
