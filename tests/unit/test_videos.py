"""Video files and rows with videos: what is decoded, what is refused, and what a row says."""

import base64
import builtins
import io
import json
import os
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import TINY, encoded, make_image, ref, user
from clips import clip_file, drawn_frames, video
from PIL import Image

from vlmtune import images, videos
from vlmtune.config import load
from vlmtune.data import hub, jsonl, open_role, table, webdataset
from vlmtune.data._rows import MappedRows
from vlmtune.dataset_check.image_index import ImageIndex
from vlmtune.engines import _messages
from vlmtune.errors import ConfigError, DataError, EnvironmentProblem, ImageError
from vlmtune.inference import shuffle_images
from vlmtune.modeling.loading import VideoConfig, find_checkpoint
from vlmtune.processing.encoder import Encoder, ImageHeaders
from vlmtune.processing.video_processor import VideoProcessor
from vlmtune.scaffold import columns, writer
from vlmtune.tasks import captioning
from vlmtune.training.augmentation import augment
from vlmtune.training.config import AugmentationConfig
from vlmtune.types import Clip, Example, ImageRef, VideoRef

FRAMES = drawn_frames(12, (64, 48))
MP4 = clip_file(FRAMES, 10, crf=1)


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of two images in grey levels."""
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean())


KINDS = {
    "mp4": ("libx264", {"crf": 1}),
    "matroska": ("ffv1", {}),
    "webm": ("libvpx", {"auto-alt-ref": 1, "lag-in-frames": 8, "b": 4_000_000}),
    "avi": ("mpeg4", {"qscale": 1, "bf": 2}),
    "gif": ("gif", {"pix_fmt": "rgb8"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_of_every_format(kind: str) -> None:
    codec, options = KINDS[kind]
    data = clip_file(FRAMES, 10, kind, codec, **options)
    clip = videos.probe(data, "clip")
    assert (clip.frames, clip.size, clip.even) == (12, (64, 48), True)
    assert clip.rate == pytest.approx(10, rel=0.01)
    found = list(videos.decode(data, [0, 3, 4, 11], clip.frames, "clip"))
    for index, frame in zip([0, 3, 4, 11], found, strict=True):
        differences = [difference(frame, drawn) for drawn in FRAMES]
        assert differences.index(min(differences)) == index
        assert min(differences) < 30


IDENTITY = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
TURNED = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
"""Matrices in an MP4's track header: as stored, and shown a quarter turn clockwise, as phones write it."""


def test_a_clip_of_a_phone_is_upright() -> None:
    at = MP4.index(IDENTITY, MP4.index(b"tkhd"))
    turned = MP4[:at] + TURNED + MP4[at + len(TURNED) :]
    clip = videos.probe(turned, "clip")
    assert clip.size == (48, 64)
    frame = next(videos.decode(turned, [5], clip.frames, "clip"))
    assert difference(frame, FRAMES[5].transpose(Image.Transpose.ROTATE_270)) < 20


GIF = clip_file(FRAMES, 10, "gif", "gif", pix_fmt="rgb8")
MATROSKA, AVI = clip_file(FRAMES, 10, "matroska", "ffv1"), clip_file(FRAMES, 10, "avi", "mpeg4")
BROKEN = {
    "empty": (b"", "the file is empty"),
    "text": (b"#EXTM3U\nfile:///etc/passwd\n", "not a video of a known format"),
    "image": (encoded(FRAMES[0]), "not a video of a known format"),
    "cut off before the index": (MP4[: len(MP4) // 2], "cannot be decoded"),
    "only its first bytes": (b"\x1aE\xdf\xa3" + bytes(40), "cannot be decoded|no video in this file"),
    "a size that no frame has": (GIF[:6] + struct.pack("<HH", 60000, 60000) + GIF[10:], "cannot be decoded"),
    "a header without frames": (GIF[:30], "cannot be decoded|no frames"),
    "cut off": (MATROSKA[: len(MATROSKA) // 2], r"only \d of 12 frames are there: the file is cut off"),
    "cut off, an AVI": (AVI[: len(AVI) // 2], "cannot be decoded"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named(name: str) -> None:
    data, message = BROKEN[name]
    with pytest.raises(ImageError, match=message) as error:
        images.decode_rgb(VideoRef("row 7 (a.mp4)", lambda: data))
    assert error.value.where == "row 7 (a.mp4)"


def test_a_damaged_frame_stands_for_no_missing_one() -> None:
    with av.open(io.BytesIO(AVI)) as container:
        *_, last = (packet for packet in container.demux(video=0) if packet.size)
    assert last.pos is not None
    cut = AVI[: last.pos + last.size // 2]
    for index in (11, 12):
        with pytest.raises(ImageError, match="frame 11 is damaged"):
            list(videos.decode(cut, [0, index], 13, "clip"))


def test_a_file_that_lacks_more_than_its_last_frame_is_cut_off() -> None:
    assert len(list(videos.decode(MP4, [0, 12], 13, "clip"))) == 2
    with pytest.raises(ImageError, match="only 12 of 14 frames can be decoded: the file is damaged or cut off"):
        list(videos.decode(MP4, [0, 13], 14, "clip"))
    drawn = drawn_frames(100, (64, 48))
    data = clip_file(drawn, 10, crf=1)
    for wanted, shown in (([3, 100, 101], [3, 99, 99]), ([100, 101], [99, 99]), ([98, 101], [98, 99])):
        for frame, index in zip(videos.decode(data, wanted, 102, "clip"), shown, strict=True):
            differences = [difference(frame, one) for one in drawn]
            assert differences.index(min(differences)) == index
    with pytest.raises(ImageError, match="only 100 of 103 frames can be decoded"):
        list(videos.decode(data, [3, 101, 102], 103, "clip"))


def test_more_frames_than_are_decoded_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "MAX_FRAMES", 11)
    with pytest.raises(ImageError, match="more than 11 frames; cut it into shorter clips"):
        videos.probe(MP4, "clip")
    monkeypatch.setattr(videos, "MAX_FRAMES", 12)
    monkeypatch.setattr(videos, "MAX_AREA", 64 * 48 - 1)
    with pytest.raises(ImageError, match="64x48 pixels, more than 0 million"):
        videos.probe(MP4, "clip")
    monkeypatch.setattr(videos, "MAX_AREA", 64 * 48)
    monkeypatch.setattr(videos, "MAX_PIXELS", 12 * 64 * 48 - 1)
    with pytest.raises(ImageError, match="12 frames of 64x48, more than 36,863 pixels"):
        videos.probe(MP4, "clip")


def test_without_pyav_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name == "av":
            raise ModuleNotFoundError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(EnvironmentProblem, match=r"clip: a video needs the extra: pip install 'vlmtune\[video\]'"):
        videos.probe(MP4, "clip")


def test_a_picture_shows_four_frames() -> None:
    picture = images.decode_rgb(video(FRAMES, 5))
    assert picture.size == (128, 96)
    shown = [picture.crop((x, y, x + 64, y + 48)) for y in (0, 48) for x in (0, 64)]
    assert [difference(one, FRAMES[n]) for one, n in zip(shown, (0, 3, 7, 11), strict=True)] == [0] * 4
    assert images.decode_rgb(VideoRef("clip", lambda: MP4)).size == (128, 96)


Write = Callable[..., None]


def opened(folder: Path, *rows: dict[str, Any], **keys: Any) -> MappedRows:
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return jsonl.open(jsonl.Config(path=str(folder), **{"references": ["caption"], **keys}), "t.jsonl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clip as a file, and its frames in a folder."""
    (tmp_path / "a.mp4").write_bytes(MP4)
    (tmp_path / "frames").mkdir()
    for n, frame in enumerate(FRAMES):
        frame.save(tmp_path / "frames" / f"{n}.png")
    (tmp_path / "frames" / "notes.txt").write_text("none")
    return tmp_path


def test_a_column_names_a_file_a_folder_or_frames(folder: Path) -> None:
    names = [f"frames/{n}.png" for n in (0, 2, 4)]
    rows = opened(
        folder,
        {"clip": "a.mp4", "caption": "x"},
        {"clip": "frames", "caption": "y"},
        {"clip": names, "caption": "z"},
        {"clip": ["a.mp4", "a.mp4"], "caption": "two"},
        video="clip",
        frame_rate=4,
    )
    file, inside, listed, _ = rows
    assert [len(row.images) for row in rows] == [1, 1, 1, 2]
    assert all(isinstance(one, VideoRef) for row in rows for one in row.images)
    clips = [images.clip_of(row.images[0]) for row in (file, inside, listed)]  # type: ignore[arg-type]
    assert [(clip.frames, clip.rate, clip.size) for clip in clips] == [
        (12, 10, (64, 48)),
        (12, 4, (64, 48)),
        (3, 4, (64, 48)),
    ]
    tenth = next(images.decode_frames(inside.images[0], [10], clips[1]))  # type: ignore[arg-type]
    assert difference(tenth, FRAMES[10]) == 0, "10.png stands behind 9.png"
    assert file.images[0].where.endswith("row 0, column 'clip' (a.mp4)")
    assert len({one.where for row in rows for one in row.images}) == 5
    assert rows.group_key(0) == rows.group_key(3) != rows.group_key(1)
    before = rows.fingerprint
    (folder / "frames" / "3.png").write_bytes(encoded(FRAMES[0]))
    again = opened(folder, *({"clip": c, "caption": "y"} for c in ("a.mp4", "frames")), video="clip", frame_rate=4)
    assert again.fingerprint != before
    other = opened(folder, *({"clip": c, "caption": "y"} for c in ("a.mp4", "frames")), video="clip", frame_rate=5)
    assert other.fingerprint != again.fingerprint, "the times of frames change what is learnt"


def tar_of(folder: Path) -> MappedRows:
    with tarfile.open(folder / "t.tar", "w") as archive:
        for name, data in (("0.mp4", MP4), ("0.txt", b"A ball .")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return webdataset.open(webdataset.Config(path=str(folder), video="video", references=["text"]), "t.tar")


def parquet_of(folder: Path) -> MappedRows:
    pq.write_table(pa.table({"v": [{"bytes": MP4, "path": None}], "caption": ["A ball ."]}), folder / "t.parquet")
    return table.open(table.Config(path=str(folder), video="v", references=["caption"]), "t.parquet")


def hub_of(folder: Path) -> MappedRows:
    parquet_of(folder)
    config = hub.Config(path=str(folder), video="v", references=["caption"])
    return hub.open(config, "train")


def base64_of(folder: Path) -> MappedRows:
    address = "data:video/mp4;base64," + base64.b64encode(MP4).decode()
    return opened(folder, {"v": address, "caption": "A ball ."}, video="v")


@pytest.mark.parametrize("rows_of", [tar_of, parquet_of, hub_of, base64_of])
def test_rows_that_hold_their_videos(rows_of: Callable[[Path], MappedRows], tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path)
    (clip,) = row.images
    assert isinstance(clip, VideoRef)
    assert images.clip_of(clip).frames == 12
    assert row.truth["references"] == ["A ball ."]


def test_a_template_leads_to_the_file_or_folder(folder: Path) -> None:
    ids = [{"id": "a", "caption": "x"}, {"id": "b", "caption": "y"}]
    (folder / "b.mp4").write_bytes(MP4)
    rows = opened(folder, *ids, video="id", image_path="{file}.mp4")
    assert [image.where.rpartition(" ")[2] for row in rows for image in row.images] == ["(a.mp4)", "(b.mp4)"]
    assert rows.group_key(0) == rows.group_key(1), "equal files"


ANSWER = {"role": "assistant", "content": "A ball"}
TAGS = {"role": "assistant", "content": "The tag <video> of HTML"}


def talk(*content: Any, answer: dict[str, str] = ANSWER, **columns: Any) -> dict[str, Any]:
    """A row with a question, of texts and parts or one text, and an answer."""
    asked = content[0] if len(content) == 1 and isinstance(content[0], str) else list(content)
    return {"m": [{"role": "user", "content": asked}, answer], **columns}


BETWEEN = "<video>Between <image>and<video> what?"
TWO = ["frames/0.png", "frames/3.png"]
SHAREGPT = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A ball"}]
FORMATS: dict[str, tuple[dict[str, Any], str]] = {
    "marks": (talk(BETWEEN, videos=["a.mp4", "frames"], images=["i.png"]), "viv"),
    "no marks": (talk("What?", videos="a.mp4", images=["i.png"]), "iv"),
    "part": (talk({"type": "video", "video": "a.mp4"}, {"type": "text", "text": "What?"}), "v"),
    "frames in a part": (talk({"type": "video", "video": TWO}), "v"),
    "part without a type": (talk({"video": "a.mp4"}, {"text": "What?"}), "v"),
    "part for a column": (talk({"type": "video"}, videos=["a.mp4"]), "v"),
    "video_url": (talk({"type": "video_url", "video_url": {"url": "a.mp4"}}), "v"),
    "sharegpt": ({"m": SHAREGPT, "videos": [TWO]}, "v"),
    "a word of HTML": (talk("Is <video></video> a tag?", answer=TAGS, images=[]), ""),
}


@pytest.mark.parametrize("name", FORMATS)
def test_videos_in_conversations(name: str, folder: Path) -> None:
    row, kinds = FORMATS[name]
    make_image(40, 40).save(folder / "i.png")
    keys = {key: key for key in ("images", "videos") if key in row}
    (example,) = opened(folder, row, references=[], messages="m", **keys)
    assert "".join("v" if isinstance(image, VideoRef) else "i" for image in example.images) == kinds
    assert example.messages is not None
    assert [part for one in example.messages for part in one.content if isinstance(part, ImageRef)] == [*example.images]
    for image in example.images:
        images.decode_rgb(image)


UNREAD = {
    "too few": (talk(BETWEEN, videos=["a.mp4"], images=["i.png"]), "<video> stands for a video, but the row has no"),
    "too many": (talk("<video>?", videos=["a.mp4", "frames"]), "2 videos, but only 1 placeholders"),
    "no videos": (talk("<video>?", images=[]), "<video> stands for a video"),
    "in an answer": (talk("?", answer=TAGS, videos=["a.mp4"]), "an assistant message cannot hold a video"),
    "outside": (talk("?", videos=["/etc/passwd"]), "lies outside"),
    "no frames": (talk({"type": "video", "video": "empty"}), "a video without frames"),
    "own settings": (talk({"type": "video", "video": "a.mp4", "fps": 4}), "the key 'fps' .* is not read"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_videos_that_cannot_be_read_are_named(name: str, folder: Path) -> None:
    row, message = UNREAD[name]
    (folder / "empty").mkdir()
    keys = {key: key for key in ("images", "videos") if key in row}
    with pytest.raises(DataError, match=message):
        list(opened(folder, row, references=[], messages="m", **keys))


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ("pipe.mp4", "not a regular file"),
        ("gone.mp4", "No such file"),
        ("frames/0.png", "not a video of a known format"),
    ],
)
def test_files_that_are_no_videos(clip: str, message: str, folder: Path) -> None:
    os.mkfifo(folder / "pipe.mp4")
    (row,) = opened(folder, {"clip": clip, "caption": "x"}, video="clip")
    with pytest.raises(ImageError, match=message) as error:
        images.decode_rgb(row.images[0])
    assert "row 0, column 'clip'" in error.value.where


def test_an_empty_column_and_boxes_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="row 0, column 'clip' is empty"):
        list(opened(folder, {"clip": None, "caption": "x"}, video="clip"))
    with pytest.raises(DataError, match="row 0: boxes in rows with videos are not supported"):
        list(opened(folder, {"clip": "a.mp4", "caption": "x", "b": [1, 2, 3, 4]}, video="clip", boxes="b"))


CONFIG = """\
model: {name: tiny, device: cpu}
dataset: {source: jsonl, path: ., video: clip, references: [caption]}
task: {name: captioning}
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inference": {"engine": "vllm"}}, "inference.engine cannot be given the frames and times"),
        ({"inference": {"engine": "openai"}}, "inference.engine cannot be given the frames and times"),
        ({"dataset": {"messages": "m"}}, "dataset.video is the column of rows without"),
        ({"dataset": {"video": None, "videos": "v"}}, "dataset.videos stand for placeholders in"),
    ],
)
def test_contradictions_are_found_in_the_config(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(CONFIG)
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        load(str(file), [change])


def test_a_server_is_never_sent_a_picture_in_place_of_a_video() -> None:
    with pytest.raises(ConfigError, match="clip: a server cannot be given the frames and times"):
        _messages.messages((user(video(FRAMES, 5), "What?"),), None, None)


def test_videos_are_shuffled_and_not_augmented() -> None:
    rows = [
        Example(str(n), (video(drawn_frames(4, (64, 48), n), 2, f"clip {n}"),), "x", {"references": ["x"]})
        for n in range(3)
    ]
    shuffled = shuffle_images(rows, 3)
    assert len(shuffled) == 3
    for row in shuffled:
        assert isinstance(row.images[0], VideoRef)
        assert row.images[0].where != f"clip {row.id}"
    with pytest.raises(DataError, match="videos are not augmented"):
        augment(rows[0], captioning.TASK, captioning.Config(), AugmentationConfig(color=0.1), "key")


def encoder(headers: bool = False, **settings: Any) -> Encoder:
    config = TINY.model_copy(update={"video": VideoConfig(**settings)})
    checkpoint = find_checkpoint(config)
    return Encoder(checkpoint, config, ImageHeaders) if headers else Encoder(checkpoint, config)


def test_headers_and_files_are_seen_as_frames_are() -> None:
    asked = (user(VideoRef("file", lambda: MP4), "What?"),)
    prompt = encoder().prompt(asked)
    counted = encoder(headers=True).prompt(asked)
    assert counted.rendered == prompt.rendered
    assert counted.images[0].moments == prompt.images[0].moments
    assert encoder(headers=True).prompt_length(asked) == encoder().prompt_length(asked) == len(prompt)
    frames = encoder().prompt((user(video(FRAMES, 10), "What?"),))
    assert frames.rendered == prompt.rendered


def test_a_file_is_read_and_probed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    probe = videos.probe

    def probed(data: bytes, where: str) -> Clip:
        done.append("probed")
        return probe(data, where)

    def read() -> bytes:
        done.append("read")
        return MP4

    monkeypatch.setattr(videos, "probe", probed)
    uses: list[Callable[[ImageRef], object]] = [
        lambda clip: encoder().prompt((user(clip, "What?"),)),
        images.decode_rgb,
        ImageIndex(tmp_path / "index.jsonl").examine,
    ]
    for use in uses:
        done.clear()
        use(VideoRef("file", read))
        assert done == ["read", "probed"]


def test_equal_frames_at_other_times_are_another_video() -> None:
    """Otherwise examples about both would share a prefix, and with it the times of one of them."""
    one, other = (encoder().prompt((user(video(FRAMES[:4], rate), "?"),)).images[0] for rate in (2, 1))
    assert one.patches is not None
    assert other.patches is not None
    assert one.patches.equal(other.patches)
    assert one.digest != other.digest


def test_what_the_model_cannot_read_is_named() -> None:
    with pytest.raises(ImageError, match="1 frame, but a video needs 2; use it as an image"):
        encoder().prompt((user(video(FRAMES[:1], 2), "?"),))
    uneven = [*FRAMES[:2], make_image(30, 30)]
    with pytest.raises(ImageError, match="frame 2 has 30x30, the first 64x48; all frames"):
        encoder().prompt((user(video(uneven, 2), "?"),))
    with pytest.raises(ConfigError, match=r"min_pixels is \d+, more than max_pixels, 5; set both"):
        encoder(max_pixels=5)
    assert "video" not in encoder().facts()["pixels"]
    assert encoder(fps=4).facts()["pixels"]["video"] == {"fps": 4}


def test_settings_for_a_checkpoint_that_has_none_are_refused(tmp_path: Path) -> None:
    family = find_checkpoint(TINY).family
    with pytest.raises(ConfigError, match=rf"model.video is set, but {tmp_path} has no video settings"):
        VideoProcessor(tmp_path, family, VideoConfig(fps=4))
    with pytest.raises(DataError, match="the checkpoint has no video settings"):
        VideoProcessor(tmp_path, family, VideoConfig()).moments(video(FRAMES, 5), Clip(12, 5, (64, 48)))


def test_an_image_and_a_video_share_a_prompt() -> None:
    still = ref(make_image(64, 64), "still")
    ids = encoder().prompt((user(video(FRAMES, 5), "and", still, "?"),)).rendered.ids
    own = encoder().renderer
    assert ids.index(own.video_id) < ids.index(own.image_id)


def film(number: int) -> bytes:
    """A file of its own, with the same frames as others."""
    return MP4 + struct.pack(">I4sI", 12, b"free", number)


def label_folders(folder: Path) -> dict[str, Any]:
    for n, label in enumerate("aabbaabbaabb"):
        file = folder / "train" / label / f"{n}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(film(n))
    return {"source": "imagefolder", "video": "video", "references": ["label"]}


def metadata(folder: Path) -> dict[str, Any]:
    (folder / "train").mkdir()
    lines = [{"file_name": f"{n}.mp4", "caption": f"Clip {n} shows a long film of a ball ."} for n in range(12)]
    (folder / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for n in range(12):
        (folder / "train" / f"{n}.mp4").write_bytes(film(n))
    return {"source": "imagefolder", "video": "video", "references": ["caption"]}


def texts_beside(folder: Path) -> dict[str, Any]:
    for n in range(12):
        (folder / f"{n}.mp4").write_bytes(film(n))
        (folder / f"{n}.txt").write_text(f"Clip {n} shows a long film of a ball .")
    return {"source": "annotations", "format": "sidecar", "video": "video", "references": ["references"]}


def column_of_files(folder: Path) -> dict[str, Any]:
    for n in range(12):
        (folder / f"{n}.mp4").write_bytes(film(n))
    lines = [{"file": f"{n}.mp4", "clip": f"{n}.mp4", "caption": f"Film {n} of a ball and a tree ."} for n in range(12)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return {"source": "jsonl", "video": "clip", "references": ["caption"]}


def column_of_frames(folder: Path) -> dict[str, Any]:
    for n in range(12):
        make_image(1200, 800, n).save(folder / f"{n}.jpg")
    lines = [{"frames": [f"{n}.jpg"] * 12, "caption": f"Film {n} of a ball and a tree ."} for n in range(12)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return {"source": "jsonl", "video": "frames", "frame_rate": 2, "references": ["caption"]}


def conversations(folder: Path) -> dict[str, Any]:
    for n in range(12):
        (folder / f"{n}.mp4").write_bytes(film(n))
    rows = [talk("<video>What?", videos=[f"{n}.mp4"]) for n in range(12)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"source": "jsonl", "messages": "m", "videos": "videos"}


QUICKTIME = [struct.pack(">I4s", 8, kind) + MP4 for kind in (b"moov", b"mdat", b"wide", b"free", b"skip")]


@pytest.mark.parametrize("data", [MP4, MATROSKA, AVI, *QUICKTIME])
def test_init_finds_videos_by_their_bytes(data: bytes) -> None:
    (column,) = columns.infer_columns([{"c": data}, {"c": {"bytes": data, "path": None}}])
    assert column.kind == "video"


@pytest.mark.parametrize("data", [GIF, encoded(FRAMES[0]), encoded(FRAMES[0], "WEBP"), b"\0\0\0\x18ftypheic"])
def test_init_takes_no_image_for_a_video(data: bytes) -> None:
    assert columns.infer_columns([{"c": data}])[0].kind == "image"


LAYOUTS = [label_folders, metadata, texts_beside, column_of_files, column_of_frames, conversations]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_init_finds_videos(layout: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    expected = layout(data)
    made = writer.write(str(data), tmp_path / "c.yaml", {"model": {"name": "tiny"}})
    config = load(str(made.file)).config
    found = config.dataset.model_dump()
    assert {key: found[key] for key in expected} == expected
    row = open_role(config.dataset, "train")[0]
    assert [type(image) for image in row.images] == [VideoRef]
    large = layout is column_of_frames
    assert config.model.video.max_pixels == (4_194_304 if large else None)
