#!/usr/bin/env bash
# Prepares a rented GPU machine; afterwards `uv run python main.py …` works. Run it as often as you like.
#
# A machine that brings its own torch keeps exactly that one: it fits the driver, and 3 GB need not be downloaded. uv
# then sees a stand-in for it (.machine-torch/README.md) and installs everything else around it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
unset VIRTUAL_ENV # an activated environment is a place to look for torch (it leads PATH), never one to install into

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 4; }

ensure_uv() {
  local python folder
  if ! command -v uv >/dev/null; then
    python="$(command -v python3 || command -v python)" || fail "no python3 here; install Python 3.11 or newer first"
    say "uv is missing: installing it into .bootstrap"
    { "$python" -m venv .bootstrap && .bootstrap/bin/python -m pip install --quiet uv; } \
      || "$python" -m pip install --quiet --target .bootstrap uv \
      || fail "uv could not be installed; install it by hand (see the uv documentation), then run this again"
    for folder in /usr/local/bin "$HOME/.local/bin"; do
      mkdir -p "$folder" 2>/dev/null && ln -sf "$PWD/.bootstrap/bin/uv" "$folder/uv" 2>/dev/null && break
    done
    say "$folder/uv now leads to the uv in this folder; remove it together with the folder"
    case ":$PATH:" in
      *":$folder:"*) ;;
      *) say "note: uv is in $folder, which is not on PATH; in this shell run: export PATH=\"$folder:\$PATH\"" ;;
    esac
    export PATH="$folder:$PATH"
  fi
  uv --version >/dev/null || fail "uv is there but does not run: $(command -v uv)"
}

gpu_here() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; }

# Interpreters in which a machine image may have put its torch; the one on PATH is first.
interpreters() {
  local python
  for python in $(type -aP python python3) /opt/conda/bin/python /opt/venv/bin/python /venv/main/bin/python; do
    case "$python" in "$PWD"/*) continue ;; esac
    if [ -x "$python" ]; then printf '%s\n' "$python"; fi
  done
}

# Sets python, version, torch, cuda and site to the first interpreter with a torch, or leaves torch empty.
find_torch() {
  local candidate found
  torch=""
  for candidate in $(interpreters); do
    if found="$("$candidate" scripts/installed_torch.py show 2>/dev/null)"; then
      python="$candidate"
      IFS=$'\t' read -r version torch cuda site <<<"$found"
      return
    fi
  done
}

# Why the torch that was found cannot be kept; prints nothing where it can.
objection() {
  if [ -z "$torch" ]; then
    echo "no torch is installed here"
  elif [ "${version%%.*}" -lt 3 ] || [ "${version#*.}" -lt 11 ]; then
    echo "torch $torch belongs to Python $version ($python), and vlmtune needs 3.11 or newer"
  elif [ "$cuda" = cpu ] && gpu_here; then
    echo "torch $torch ($python) was built without CUDA, and there is a GPU"
  fi
}

forget_torch() { rm -rf .machine-torch/*.whl uv.lock .venv; }

keep_torch() {
  local name
  for name in UV_PROJECT_ENVIRONMENT UV_PYTHON; do
    [ -z "${!name:-}" ] || fail "$name is set to ${!name}; unset it, so that uv uses .venv and leaves that one alone"
  done
  forget_torch
  "$python" scripts/installed_torch.py stand-ins .machine-torch \
    && uv venv --quiet --system-site-packages --python "$python" .venv \
    && show_torch_to .venv/bin/python \
    && uv sync
}

# Where the machine's Python is itself a virtual environment, its packages are not the system's: add their folder.
show_torch_to() {
  "$1" scripts/installed_torch.py show >/dev/null && return
  echo "$site" >"$("$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/machine-torch.pth"
}

install_torch() {
  say "$1: uv installs its own into .venv"
  if compgen -G ".machine-torch/*.whl" >/dev/null; then forget_torch; fi
  uv sync || fail "uv could not install the packages; its message stands above"
  torch=""
}

verify() {
  local seen
  seen="$(uv run python -c 'import peft, torch, transformers as t; t.AutoModelForImageTextToText; print(torch.__version__)')" \
    || fail "torch, transformers and peft do not import together; the reason stands above"
  if [ -n "$torch" ] && [ "$seen" != "$torch" ]; then
    fail "uv run sees torch $seen, but $torch is installed: please report this with the output of 'uv sync -v'"
  fi
  if gpu_here && ! uv run python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    uv run vlmtune doctor
    fail "there is a GPU, but torch $seen cannot use it: its driver is too old for this build. Take a newer machine image"
  fi
}

main() {
  local reason
  ensure_uv
  find_torch
  reason="$(objection)"
  if [ -n "$reason" ]; then
    install_torch "$reason"
  else
    say "keeping torch $torch ($python)"
    keep_torch || install_torch "torch $torch cannot be combined with what vlmtune needs (see above)"
  fi
  verify
  uv run vlmtune doctor
  case "${USE_MOCK:-False}" in
    [Tt]rue | 1 | [Yy]es) say "USE_MOCK is set: main.py runs the embedded tiny model on the CPU; USE_MOCK=False for the real one" ;;
    *) say "USE_MOCK=True tries all three modes on the embedded tiny model first" ;;
  esac
  if gpu_here; then
    say "ready: uv run python main.py --mode baseline --config flickr8k_captioning.yaml"
  else
    say "no GPU here; ready for: USE_MOCK=True uv run python main.py --mode baseline --config flickr8k_captioning.yaml"
  fi
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then main; fi
