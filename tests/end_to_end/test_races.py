"""Two processes want one run folder at the same moment: one works, the other is told, and nothing is made twice."""

import subprocess
import sys
from pathlib import Path

ROUNDS = 20
RACER = """
import os, sys, time
from pathlib import Path
from vlmtune.errors import FolderLocked
from vlmtune.progress import Progress, Silent
from vlmtune.run_folder import Provenance, RunFolder

me, other, root, rounds = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
origin = Provenance({"seed": 1})

def wait(until, longest):
    latest = time.monotonic() + longest
    while not until():
        assert time.monotonic() < latest, "the other one never came"
        time.sleep(0.0005)

for number in range(rounds):
    (root / f"{number}{me}").touch()
    wait(lambda: (root / f"{number}{other}").exists(), 30)
    folder = RunFolder(root / f"run {number}", Progress(Silent()))
    artifact = folder.root / "answers.jsonl"
    log = os.open(root / f"log {number}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        with folder.lock():
            os.write(log, f"{me} begins\\n".encode())
            if folder.reconcile(artifact, origin) is None:
                folder.work(artifact, origin)
                wait(lambda: "refused" in (root / f"log {number}").read_text(), 30)
                folder.write(artifact, "answers")
                folder.publish(artifact, origin, {"by": me})
                os.write(log, f"{me} made it\\n".encode())
            os.write(log, f"{me} ends\\n".encode())
    except FolderLocked as error:
        assert "is in use by" in str(error), error
        os.write(log, f"{me} was refused\\n".encode())
"""


def test_two_processes_race_for_a_folder(tmp_path: Path) -> None:
    words = [str(tmp_path), str(ROUNDS)]
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, me, other, *words], stderr=subprocess.PIPE, text=True)
        for me, other in ("ab", "ba")
    ]
    try:
        for racer in racers:
            _, said = racer.communicate(timeout=300)
            assert racer.returncode == 0, said
    finally:
        for racer in racers:
            racer.kill()
    for number in range(ROUNDS):
        log = (tmp_path / f"log {number}").read_text().splitlines()
        worked = [line for line in log if not line.endswith("refused")]
        assert len(log) - len(worked) == 1, "one of them was refused"
        assert [line for line in log if line.endswith("made it")] == worked[1:2], "made once, by whoever came first"
        inside = [line.split()[0] for line in worked if not line.endswith("made it")]
        assert inside[::2] == inside[1::2], "nobody begins before the other has ended"
        assert (tmp_path / f"run {number}/answers.jsonl").read_text() == "answers"
        assert sorted(file.name for file in (tmp_path / f"run {number}/.vlmtune").iterdir()) == ["lock"]
