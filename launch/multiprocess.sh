#!/usr/bin/env bash
# Train in N processes on this machine, which then work together as N hosts do:
#   launch/multiprocess.sh N --config configs/unet.py [--config.a.b=VALUE ...]
# DEVICES_PER_PROCESS=K gives each process K simulated CPU devices; without it process I uses GPU I
# where there are GPUs. PYTHON names the interpreter (else the .venv of local.sh, else python).
# Ctrl-C and SIGTERM go to all processes: they save and end. When one fails, the others have GRACE
# seconds (120) to end by themselves, then they are killed; the exit code is the largest of all.
# DRY_RUN=1 only prints the commands.
set -euo pipefail
case ${1:-} in -h | --help) sed -nE '2,/^[^#]/s/^#( |$)//p' "$0" && exit ;; esac
cd "$(dirname "$0")/.."

fail() { echo "multiprocess.sh: $1" >&2 && exit 2; }
[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || fail "the first argument is the number of processes, got '${1:-}'"
[[ ${DEVICES_PER_PROCESS:-1} =~ ^[1-9][0-9]*$ ]] || fail "DEVICES_PER_PROCESS must be a number"
[[ ${GRACE:=120} =~ ^[0-9]+$ ]] || fail "GRACE must be a number of seconds, got '$GRACE'"
count=$1 && shift
if [ -z "${PYTHON:-}" ]; then
  if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python; fi
fi
command -v "$PYTHON" >/dev/null || fail "no $PYTHON here; launch/local.sh makes an environment"

# Ports below 32768 are not handed out to outgoing connections.
port=$((20000 + RANDOM % 10000))
while (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((20000 + RANDOM % 10000)); done
export JAX_COORDINATOR_ADDRESS=localhost:$port JAX_NUM_PROCESSES=$count

pids=()
start() { # rank, training arguments
  local rank=$1 settings=("JAX_PROCESS_ID=$1")
  shift
  if [ -n "${DEVICES_PER_PROCESS:-}" ]; then
    local flag=--xla_force_host_platform_device_count=$DEVICES_PER_PROCESS
    settings+=(JAX_PLATFORMS=cpu "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }$flag")
  else
    settings+=("JAX_LOCAL_DEVICE_IDS=$rank")
  fi
  if [ -n "${DRY_RUN:-}" ]; then
    printf '+ JAX_COORDINATOR_ADDRESS=%s JAX_NUM_PROCESSES=%s' "$JAX_COORDINATOR_ADDRESS" "$count"
    printf ' %q' "${settings[@]}" "$PYTHON" -m jaxseg.train "$@" && printf '\n'
  else
    env "${settings[@]}" "$PYTHON" -m jaxseg.train "$@" </dev/null &
    pids[rank]=$!
  fi
}

signalled='' deadline='' worst=0
# shellcheck disable=SC2317,SC2329 # the traps call it
forward() { # signal
  signalled=$1
  for pid in ${pids[@]+"${pids[@]}"}; do kill -s "$1" "$pid" 2>/dev/null || true; done
}

collect() { # rank of a process that has ended
  local pid=${pids[$1]} code=0
  wait "$pid" || code=$?
  unset "pids[$1]"
  kill -KILL -- "-$pid" 2>/dev/null || true # its loader workers, should it have left any
  if ((code > worst)); then worst=$code; fi
  if ((${#pids[@]})) && [ -z "$deadline" ] && { ((code)) || [ -n "$signalled" ]; }; then
    deadline=$((SECONDS + GRACE))
    if ((code)); then
      echo "multiprocess.sh: process $1 ended with exit code $code; others have $GRACE s" >&2
    fi
  fi
}

kill_rest() {
  for rank in "${!pids[@]}"; do
    echo "multiprocess.sh: process $rank did not end in $GRACE s; killed" >&2
    kill -KILL -- "-${pids[rank]}" 2>/dev/null || true
    collect "$rank"
  done
}

trap 'forward INT' INT
trap 'forward TERM' TERM HUP
# Process groups of their own: a Ctrl-C of the terminal reaches them once, through us; the second
# signal ends them without a save.
set -m
for ((rank = 0; rank < count; rank++)); do start "$rank" "$@"; done
set +m
while ((${#pids[@]})); do
  for rank in "${!pids[@]}"; do
    if ! kill -0 "${pids[rank]}" 2>/dev/null; then collect "$rank"; fi
  done
  if [ -n "$deadline" ] && ((SECONDS >= deadline)); then kill_rest; fi
  sleep 0.2 || true # a Ctrl-C ends the sleep
done
exit "$worst"
