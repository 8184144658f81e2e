"""Small scripts on the PATH that stand in for a cluster's programs, for tests of recipes/."""

import json
import socketserver
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commands import Ended, warm_vlmtune

SRUN = """\
tasks=$SLURM_NTASKS
while [[ $1 == --* ]]; do
  case $1 in
    --ntasks=*) tasks=${1#*=} ;;
    --nodes=1 | --kill-on-bad-exit=0 | --wait=120) ;;
    *) echo "srun: unrecognized option $1" >&2; exit 1 ;;
  esac
  shift
done
for ((task = 0; task < tasks; task++)); do
  SLURM_NTASKS=$tasks SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
  started+=($!)
done
highest=0
for one in "${started[@]}"; do
  code=0
  wait "$one" || code=$?
  if ((code > highest)); then highest=$code; fi
done
exit "$highest"
"""
"""Starts the tasks of a job step and exits with their highest code, as srun's manual says."""

SCONTROL = """\
case "$*" in
  "show hostnames a,b") printf '127.0.0.1\\nb\\n' ;;
  "requeue Incomplete "*) echo "scontrol $*" >>"$LOG" ;;
  *) echo "invalid keyword: $*" >&2; exit 1 ;;
esac
"""

VLMTUNE = """\
echo "${RANK:--} vlmtune $*" >>"$LOG"
if [ "$1" = "${SIGNALLED:-}" ]; then kill -TERM "$PPID"; fi
if [ "$1" = "${WAITING:-}" ]; then
  trap 'sleep 0.3; exit 75' TERM
  echo waiting >>"$LOG"
  while true; do sleep 0.05; done
fi
for one in $CODES; do
  if [[ $one == "$1:${RANK:-0}="* ]]; then exit "${one#*=}"; fi
done
"""
"""Records how it was called and exits as CODES says (`command:rank=code`)."""

SHIM = """\
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as wire:
    wire.connect(os.environ["WARM"])
    kept = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "FAULT")
    told = {name: os.environ[name] for name in kept if name in os.environ}
    wire.sendall(json.dumps([sys.argv[1:], os.getcwd(), told]).encode() + b"\\n")
    code, said = json.loads(wire.makefile().readline())
sys.stderr.write(said)
sys.exit(code)
"""
"""The real command, in a child of a preloaded parent."""


class Desk:
    """A machine with stand-ins on its PATH and a log of their calls."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        self.log.touch()
        self.environment = {"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(folder), "LOG": str(self.log), "CODES": ""}

    def put(self, name: str, text: str, interpreter: str = "/usr/bin/env bash") -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!{interpreter}\n{text}", encoding="utf-8")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    def run(self, file: Path, **environment: str) -> Ended:
        return subprocess.run(
            ["bash", file], cwd=self.folder, env=self.environment | environment,
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip

    def asked(self) -> list[str]:
        """The calls since the last time this was read."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        self.log.write_text("", encoding="utf-8")
        return lines


@contextmanager
def warm_server(desk: Desk) -> Iterator[None]:
    """While it is open, `vlmtune` on the desk is the real one; FAULT is armed in its train step, codes are logged."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            words, cwd, told = json.loads(self.rfile.readline())
            fault = told.pop("FAULT", None)
            own = {"VLMTUNE_FAULT": fault} if fault and words[0] == "train" else {}
            ended = warm_vlmtune(*words, cwd=Path(cwd), **told, **own)
            with desk.log.open("a", encoding="utf-8") as log:
                log.write(f"{words[0]} {ended.returncode}\n")
            self.wfile.write(json.dumps([ended.returncode, ended.stderr]).encode() + b"\n")

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    desk.put("bin/vlmtune", SHIM, f"{sys.executable} -S")
    desk.environment["WARM"] = str(desk.folder / "wire")
    with Server(desk.environment["WARM"], Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()
