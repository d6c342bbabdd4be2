#!/usr/bin/env bash
# Train on a TPU slice of Google Cloud, one process on each of its hosts:
#   launch/tpu_vm.sh create [GCLOUD-FLAGS]    queue for a slice, by example with --spot
#   launch/tpu_vm.sh status                   prints ACTIVE once it is there
#   launch/tpu_vm.sh each 'COMMAND'           a shell command on every host, by example a mount
#   launch/tpu_vm.sh copy                     copy this checkout to every host and install it there
#   launch/tpu_vm.sh run TRAINING-ARGUMENTS   start on every host, in the background
#   launch/tpu_vm.sh log                      follow what process 0 prints (Ctrl-C ends only this)
#   launch/tpu_vm.sh stop                     SIGTERM to all processes: they save and end
#   launch/tpu_vm.sh fetch REMOTE [LOCAL]     copy a folder of worker 0 to this machine
#   launch/tpu_vm.sh delete [GCLOUD-FLAGS]    give the slice back, which ends the costs
# TPU_NAME and ZONE name the slice; create also wants ACCELERATOR_TYPE (v5litepod-16, ...) and
# RUNTIME_VERSION (v2-alpha-tpuv5-lite, ...). The project is gcloud's (CLOUDSDK_CORE_PROJECT).
# Run ssh-add ~/.ssh/google_compute_engine first. run needs a --workdir that all hosts share.
# DRY_RUN=1 only prints the commands.
set -euo pipefail
case ${1:-} in -h | --help) sed -nE '2,/^[^#]/s/^#( |$)//p' "$0" && exit ;; esac

fail() { echo "tpu_vm.sh: $1" >&2 && exit 2; }

run() {
  printf '+' && printf ' %q' "$@" && printf '\n'
  if [ -z "${DRY_RUN:-}" ]; then "$@"; fi
}

need() { # names of environment variables
  for name in "$@"; do [ -n "${!name:-}" ] || fail "$name is not set (see --help)"; done
}

queue() { # verb, flags
  run gcloud compute tpus queued-resources "$1" "$TPU_NAME" --zone="$ZONE" "${@:2}"
}

on_worker() { # worker or all, command
  run gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker="$1" --command="$2"
}

copy_between() { # worker or all, flags, source, target
  run gcloud compute tpus tpu-vm scp --zone="$ZONE" --worker="$1" "${@:2}"
}

create() {
  need ACCELERATOR_TYPE RUNTIME_VERSION
  queue create --node-id="$TPU_NAME" --accelerator-type="$ACCELERATOR_TYPE" \
    --runtime-version="$RUNTIME_VERSION" "$@"
}

copy() {
  cd "$(dirname "$0")/.."
  run mkdir -p build
  run tar --exclude=__pycache__ -czf build/jaxseg.tar.gz \
    README.md LICENSE pyproject.toml configs jaxseg launch
  copy_between all build/jaxseg.tar.gz "$TPU_NAME:"
  # uv brings its own Python: that of the TPU images is 3.10, too old for jax.
  on_worker all "mkdir -p jaxseg && tar -xzf jaxseg.tar.gz -C jaxseg && cd jaxseg \
&& python3 -m pip install --quiet --user uv \
&& { [ -x .venv/bin/python ] || python3 -m uv venv --quiet --python 3.12 .venv; } \
&& python3 -m uv pip install --quiet --python .venv/bin/python '.[tpu]'"
}

train() {
  case " $* " in
    *" --workdir /"* | *" --workdir=/"*) ;;
    *) fail "run: give --workdir /PATH on a file system that all hosts share" ;;
  esac
  local command
  command=$(printf ' %q' .venv/bin/python -m jaxseg.train "$@")
  # nohup: the run outlives this ssh connection. The braces make $! the pid of python itself.
  on_worker all "cd jaxseg && { JAXSEG_DISTRIBUTED=1 nohup$command \
>>~/jaxseg.log 2>&1 </dev/null & echo \$! >~/jaxseg.pid; }"
}

verb=${1:-}
case $verb in
  create | status | each | copy | run | log | stop | fetch | delete) shift ;;
  *) fail "'$verb' is none of create, status, each, copy, run, log, stop, fetch, delete" ;;
esac
need TPU_NAME ZONE
if [ -z "${DRY_RUN:-}" ] && ! command -v gcloud >/dev/null; then
  fail "no gcloud here; see https://cloud.google.com/sdk/docs/install"
fi
case $verb in
  create) create "$@" ;;
  status) queue describe --format='value(state.state)' ;;
  each)
    [ $# = 1 ] || fail "each: give one quoted command"
    on_worker all "$1"
    ;;
  copy) copy ;;
  run) train "$@" ;;
  log) on_worker 0 'tail -n 100 -F ~/jaxseg.log' ;;
  stop) on_worker all 'pkill -TERM -F ~/jaxseg.pid' ;;
  fetch)
    [ -n "${1:-}" ] || fail "fetch: give the remote folder, by example /shared/runs/lgg"
    copy_between 0 --recurse "$TPU_NAME:$1" "${2:-.}"
    ;;
  delete) queue delete --force "$@" ;;
esac
