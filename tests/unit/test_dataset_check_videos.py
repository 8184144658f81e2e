"""`vlmtune data check` and `data show` of rows with videos."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import encoded
from clips import clip_file, drawn_frames

from vlmtune.cli.app import app
from vlmtune.config import load
from vlmtune.dataset_check import runner
from vlmtune.modeling.loading import find_checkpoint
from vlmtune.progress import Progress, Silent
from vlmtune.registry import load as load_plugin
from vlmtune.run_layout import DATA_CHECK_PAGE, IMAGE_INDEX
from vlmtune.signals import StopRequest

CONFIG = """\
schema_version: 1
model: {name: tiny, device: cpu, video: {max_frames: 6}}
dataset: {source: jsonl, path: %s, video: clip, frame_rate: 2, references: [caption]}
task: {name: captioning}
training: {precision: fp32}
output: {dir: %s}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Sound clips and one of every fault."""

    def clip(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return name

    sound = [clip(f"{n}.mp4", clip_file(drawn_frames(8, (64, 48), n), 5)) for n in range(4)]
    frames = drawn_frames(8, (64, 48), 9)
    uneven = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=[100, 300] * 4)
    (tmp_path / "frame.png").write_bytes(encoded(frames[0]))
    long = [clip(f"{n}.png", encoded(frame)) for n, frame in enumerate(drawn_frames(9, (64, 48), 8))]
    splits = {
        "train": [
            sound[0],
            clip("broken.mp4", b"no video"),
            clip("uneven.gif", uneven),
            long,
            ["frame.png"],
            clip("copy.mp4", (tmp_path / sound[3]).read_bytes()),
        ],
        "validation": sound[1:3],
        "test": sound[3:],
    }
    for role, clips in splits.items():
        lines = [json.dumps({"clip": one, "caption": f"Film {n} of {role} ."}) for n, one in enumerate(clips)]
        (tmp_path / f"{role}.jsonl").write_text("\n".join(lines))
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG % (tmp_path, tmp_path / "out"))
    return config


def checked(file: Path) -> dict[str, Any]:
    config = load(str(file)).config
    folder = Path(config.output.dir)
    task = load_plugin("tasks", config.task.name).TASK
    index = folder / ".vlmtune" / IMAGE_INDEX
    checkpoint = find_checkpoint(config.model)
    return runner.DatasetCheck(config, task, checkpoint, index, Progress(Silent()), StopRequest()).write(folder)


def test_every_fault_of_a_video_is_found(file: Path) -> None:
    found = checked(file)
    by_row = {(one["role"], one["row"], one["kind"]): one["message"] for one in found["findings"]}
    assert by_row.keys() == {
        ("train", 1, "image"),
        ("train", 2, "variable frame rate"),
        ("train", 3, "sparse"),
        ("train", 4, "example"),
        ("train", 5, "leak"),
    }
    assert "not a video of a known format" in by_row["train", 1, "image"]
    assert by_row["train", 3, "sparse"].endswith("only 6 of its frames are taken")
    assert "1 frame, but a video needs 2" in by_row["train", 4, "example"]
    train = found["splits"][0]
    assert (train["bad"], train["images"], train["properties"]["video"]) == (3, 6, 5)
    assert "data:image/webp" in (Path(file).parent / "out" / DATA_CHECK_PAGE).read_text()
    again = checked(file)
    assert again["findings"] == found["findings"]


def test_bad_clips_are_left_out_where_the_config_allows_it(file: Path) -> None:
    file.write_text(file.read_text().replace("frame_rate: 2", "max_bad_fraction: 0.5"))
    assert checked(file)["status"] != "errors"


def test_frames_times_and_positions_are_shown(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app(["data", "show", str(file), "--row", "0", "--json"])
    assert not ended.value.code
    shown = json.loads(capsys.readouterr().out)
    (clip,) = shown["images"]
    assert clip["video"] == {"frames": [0, 2, 5, 7], "seconds": [0.2, 1.2]}
    assert (clip["size"], clip["grid"]) == ([64, 48], [2, 4, 4])
    (encoded,) = shown["encoded"]
    parts = [span for span in encoded["spans"] if span["kind"] == "video"]
    assert [span["patches"] for span in parts] == [[1, 4, 4]] * 2
    assert sum(span["end"] - span["start"] for span in parts) == clip["tokens"] == 8
    assert shown["conversation"][0]["content"][0] == "<video>"
    with pytest.raises(SystemExit):
        app(["data", "show", str(file), "--row", "0"])
    text = capsys.readouterr().out
    assert "frames 0, 2, 5, 7 at 0.2, 1.2 seconds" in text
    assert "<0.2 seconds><|vision_start|><video 4x4 = 4 tokens><|vision_end|><1.2 seconds>" in text
