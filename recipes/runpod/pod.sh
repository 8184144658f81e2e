#!/usr/bin/env bash
# Start script of a RunPod pod: sets up vlmtune, checks the data and runs `vlmtune run CONFIG`. docs/recipes.md gives the
# start command of the template and the variables.
#
# The clone and its environment are on the container's disk, which a stopped pod loses; caches and results are on the
# volume, which persists. A restarted pod repeats the setup and resumes the run.
set -euo pipefail

VOLUME="${VOLUME:-/workspace}"
CONFIG="${CONFIG:-flickr8k_captioning.yaml}" # a name, or a file on the volume
AT_END="${AT_END:-keep}"                     # or stop, or delete
export HF_HOME="${HF_HOME:-$VOLUME/huggingface}"

say() { printf 'pod: %s\n' "$*"; }

case "$AT_END" in
  keep | stop | delete) ;;
  *) say "AT_END must be keep, stop or delete (got '$AT_END'); the pod is kept" && AT_END=keep ;;
esac

# A stopping pod sends SIGTERM only to its first process, which is this shell: forward it, and wait for the command to
# handle it.
signals="" child=""
forward() {
  signals+=x
  if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null || true; fi
}
trap forward TERM

run() {
  local code seen
  if [ -n "$signals" ]; then return 75; fi
  "$@" &
  child=$!
  while true; do
    seen="$signals" code=0
    wait "$child" || code=$?
    [ "$seen" = "$signals" ] && break # otherwise the signal interrupted the wait
  done
  child=""
  return "$code"
}

work() {
  run bash "$HERE/setup_gpu_env.sh" || return
  # shellcheck disable=SC1091 # made by the line above
  source "$HERE/.venv/bin/activate" || return
  cd "$VOLUME" || return
  run vlmtune data check "$CONFIG" || return
  run vlmtune run "$CONFIG"
}

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
if [ -x /start.sh ]; then /start.sh & fi # the services of RunPod's images: SSH, Jupyter

code=0
work || code=$?
if [ -n "$signals" ]; then
  say "stopped with exit code $code; start the pod again to resume"
  exit "$code"
fi
say "finished with exit code $code; results are in the output.dir of $CONFIG, below $VOLUME"

# RunPod restarts a container that exits, so this one waits. After a failure the pod is never deleted: its log says why.
if [ "$code" != 0 ] && [ "$AT_END" = delete ]; then AT_END=stop; fi
if [ "$AT_END" != keep ]; then
  runpodctl pod "$AT_END" "$RUNPOD_POD_ID" || say "cannot $AT_END the pod; it keeps costing money"
fi
run sleep infinity
