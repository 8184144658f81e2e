#!/usr/bin/env bash
# What a RunPod pod does from its start: sets vlmtune up, checks the data and takes CONFIG through `vlmtune run`.
# docs/recipes.md says what a template's start command is and which variables there are.
#
# The clone and its environment lie on the container's disk, which a stopped pod loses; caches and results on the
# volume, which it keeps. A pod that starts again does all of this again, and the run goes on where it was.
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

# A pod that stops sends SIGTERM to its first process alone, which is this shell: it is passed on, and what a command
# made of it is waited for.
asked="" child=""
pass_on() {
  asked+=x
  if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null || true; fi
}
trap pass_on TERM

run() {
  local code seen
  if [ -n "$asked" ]; then return 75; fi
  "$@" &
  child=$!
  while true; do
    seen="$asked" code=0
    wait "$child" || code=$?
    [ "$seen" = "$asked" ] && break # else it was the signal that ended the wait
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
if [ -x /start.sh ]; then /start.sh & fi # the services of RunPod's own images: SSH, Jupyter

code=0
work || code=$?
if [ -n "$asked" ]; then
  say "stopped with $code; start the pod again to go on"
  exit "$code"
fi
say "ended with $code; results are in the output.dir of $CONFIG, below $VOLUME"

# RunPod starts a container again that has ended, so this one waits. One that failed is never deleted: its log says why.
if [ "$code" != 0 ] && [ "$AT_END" = delete ]; then AT_END=stop; fi
if [ "$AT_END" != keep ]; then
  runpodctl pod "$AT_END" "$RUNPOD_POD_ID" || say "the pod could not be asked to $AT_END; it goes on costing"
fi
run sleep infinity
