"""A server that hangs ends the command; running it again requests what is missing."""

from pathlib import Path
from typing import Any

import fake_server
from commands import warm_vlmtune
from fake_server import CONFIG, KEY, Stub, always, answer


def predict(folder: Path, stub: Stub, **more: object) -> Any:
    (folder / "c.yaml").write_text(CONFIG, "utf-8")
    given = {"engine": "openai", "base_url": stub.base_url, "api_key": "${env:CANARY}", "concurrency": 2, **more}
    sets = [word for key, value in given.items() for word in ("--set", f"inference.{key}={value}")]
    return warm_vlmtune("predict", "c.yaml", *sets, cwd=folder, CANARY=KEY)


def test_a_hanging_server_ends_the_command_and_a_rerun_finishes(tmp_path: Path) -> None:
    """The same bytes as without the interruption, no answer asked for twice; the key is nowhere in what was written."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "hung").mkdir()
    with fake_server.serving(always(answer)) as stub:
        ended = [predict(tmp_path / "plain", stub)]
        stub.seen.clear()
        stub.script = lambda number, body: answer if number < 23 else fake_server.hang
        ended.append(predict(tmp_path / "hung", stub, watchdog_s=1, timeout_s=0.5))
        (partial,) = (tmp_path / "hung/out/.vlmtune").rglob("answers.jsonl")
        saved = len(partial.read_bytes().splitlines())
        stub.seen.clear()
        stub.script = always(answer)
        ended.append(predict(tmp_path / "hung", stub))
    assert [one.returncode for one in ended] == [0, 5, 0], ended[1].stderr
    assert "no answer came for 1 s" in ended[1].stderr
    assert len(stub.seen) == 40 - saved
    file = "out/baseline_predictions.jsonl"
    assert (tmp_path / "hung" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in written + "".join(one.stdout + one.stderr for one in ended).encode()
