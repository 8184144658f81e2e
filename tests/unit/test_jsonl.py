"""JSONL rows: columns to roles, chat rows, images by path and base64, and every way in which a file can be wrong."""

import base64
import functools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import encoded, make_image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlmtune.data import DatasetConfig, Splits, _json, jsonl
from vlmtune.data._image_refs import resolve
from vlmtune.data._json import JsonRows
from vlmtune.data._records import Records
from vlmtune.data._rows import MappedRows
from vlmtune.errors import DataError, EnvironmentProblem, ImageError
from vlmtune.images import decode_rgb
from vlmtune.types import ImageRef, Message

Write = Callable[..., Path]
PNG = encoded(make_image(12, 8))


def config(folder: Path, **keys: object) -> jsonl.Config:
    return jsonl.Config.model_validate({"path": str(folder), "references": ["caption"], "image": None, **keys})


def test_columns_become_roles(tmp_path: Path, write_jsonl: Write) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    row = {"file": "a.png", "c1": "One.", "more": ["Two.", "Three."], "key": 7, "who": "p1", "words": ["ball|balls"]}
    write_jsonl("test.jsonl", row)
    keys = {"image": "file", "references": ["c1", "more"], "target": "c1", "id": "key", "group": "who"}
    example = jsonl.open(config(tmp_path, **keys, keywords="words", meta=["who"]), "test.jsonl")[0]
    assert (example.id, example.cluster, example.target, example.meta) == ("7", "p1", "One.", {"who": "p1"})
    assert example.truth == {"references": ["One.", "Two.", "Three."], "keywords": ["ball|balls"]}
    assert decode_rgb(example.images[0]).size == (12, 8)


@pytest.mark.parametrize("value", ["data:image/png;base64,{}", "{}"], ids=["data url", "bare"])
def test_images_in_base64(value: str, tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("test.jsonl", {"image": value.format(base64.b64encode(PNG).decode()), "caption": "x"})
    example = jsonl.open(config(tmp_path, image="image"), "test.jsonl")[0]
    assert decode_rgb(example.images[0]).size == (12, 8)


def test_chat_rows_bring_their_conversation(tmp_path: Path, write_jsonl: Write) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}, {"type": "image"}]},
        {"role": "assistant", "content": "A ball."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes."},
    ]
    write_jsonl("train.jsonl", {"messages": talk, "images": ["a.png", "a.png"]})
    keys = {"references": [], "messages": "messages", "images": "images"}
    example = jsonl.open(config(tmp_path, **keys), "train.jsonl")[0]
    assert example.messages is not None
    assert [message.role for message in example.messages] == ["system", "user", "assistant", "user"]
    assert [type(part) for part in example.messages[1].content] == [ImageRef, str, ImageRef]
    assert (example.target, example.truth["references"]) == ("Yes.", ["Yes."])


def test_images_nobody_places_stand_before_the_first_question(tmp_path: Path, write_jsonl: Write) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    write_jsonl("t.jsonl", {"m": [{"role": "user", "content": "What?"}], "images": ["a.png"]})
    example = jsonl.open(config(tmp_path, references=[], messages="m", images="images"), "t.jsonl")[0]
    assert example.messages == (Message("user", (example.images[0], "What?")),)


def test_without_a_group_there_is_no_cluster(tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("t.jsonl", {"caption": "a"})
    assert jsonl.open(config(tmp_path), "t.jsonl")[0].cluster is None


@pytest.mark.parametrize("key", ["id", "group"])
@pytest.mark.parametrize("value", ["null", '""', "NaN", "[1]", '{"a": 1}', '"\\ud800"'])
def test_what_names_no_row_or_group_is_refused(key: str, value: str, tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("t.jsonl", '{"caption": "a", "who": 1.5}', f'{{"caption": "b", "who": {value}}}')
    with pytest.raises(DataError, match=f"t.jsonl, row 1: dataset.{key} names column 'who', which"):
        list(jsonl.open(config(tmp_path, **{key: "who"}), "t.jsonl"))


@pytest.mark.parametrize("value", ["ball", None, [["ball"]], ["ball", None], 3])
def test_keywords_are_a_list_of_texts(value: object, tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("t.jsonl", {"caption": "a", "words": ["ball"]}, {"caption": "b", "words": value})
    with pytest.raises(DataError, match="t.jsonl, row 1: column 'words' must hold"):
        list(jsonl.open(config(tmp_path, keywords="words"), "t.jsonl"))


IMAGE, ASK = {"type": "image"}, {"role": "user", "content": "What?"}
BAD_TALK = {
    "image in the answer": (
        [ASK, {"role": "assistant", "content": ["A.", IMAGE]}],
        ["a.png"],
        "message 1: an assistant",
    ),
    "image in an earlier answer": (
        [ASK, {"role": "assistant", "content": [IMAGE]}, ASK],
        ["a.png"],
        "an assistant message",
    ),
    "null content": ([{"role": "user", "content": None}], [], "message 0: content must be text or a list of parts"),
    "number": ([{"role": "user", "content": 3}], [], "content must be text or a list of parts"),
    "part without a list": ([{"role": "user", "content": IMAGE}], ["a.png"], "content must be text or a list of parts"),
    "number for a list": ([ASK], 3, "row 0: column 'images' must hold an image or a list of images"),
}


@pytest.mark.parametrize("name", BAD_TALK)
def test_bad_conversations_are_named(name: str, tmp_path: Path, write_jsonl: Write) -> None:
    talk, images, message = BAD_TALK[name]
    for one in talk:
        if isinstance(one["content"], list):
            one["content"] = [{"type": "text", "text": p} if isinstance(p, str) else p for p in one["content"]]
    write_jsonl("t.jsonl", {"m": talk, "images": images})
    with pytest.raises(DataError, match=message):
        list(jsonl.open(config(tmp_path, references=[], messages="m", images="images"), "t.jsonl"))


@pytest.mark.parametrize(
    ("part", "message", "row", "where"),
    [
        ({"type": "video"}, {}, {}, "row 0, message 0: a video part stands for a video, but the row has no further"),
        ({"type": "image", "video": "a.mp4"}, {}, {}, "row 0, message 0, a part: the key 'video' .* is not read"),
        ({"type": "video", "video": "a.mp4", "fps": 4}, {}, {}, "row 0, message 0, a part: the key 'fps'"),
        (IMAGE, {"videos": ["a.mp4"]}, {}, "row 0, message 0: the videos under 'videos' are not read"),
        (IMAGE, {}, {"videos": ["a.mp4"]}, "row 0: the videos under 'videos' are not read; name a column"),
        (IMAGE, {}, {"video": "a.mp4"}, "row 0: the videos under 'video' are not read"),
    ],
)
def test_a_video_that_is_not_read_is_refused(
    part: dict[str, Any], message: dict[str, Any], row: dict[str, Any], where: str, tmp_path: Path, write_jsonl: Write
) -> None:
    keys: dict[str, Any] = {"references": [], "messages": "m", "images": "images"}

    def rows(*parts: dict[str, Any], message: dict[str, Any], row: dict[str, Any]) -> list[Any]:
        talk = [{"role": "user", "content": list(parts), **message}, {"role": "assistant", "content": "A ball."}]
        write_jsonl("t.jsonl", {"m": talk, "images": ["a.png"], **row})
        return list(jsonl.open(config(tmp_path, **keys), "t.jsonl"))

    with pytest.raises(DataError, match=where):
        rows(part, message=message, row=row)
    # Tables fill every key that some row has.
    assert rows(IMAGE | {"video": None}, message={"videos": []}, row={"video": None, "videos": []})


BAD = {
    "not json": ("{oops", "test.jsonl:2: not JSON"),
    "not an object": ("[1]", "test.jsonl:2: a row must be a JSON object"),
    "empty caption": ('{"caption": "  "}', "row 1: column 'caption' is empty"),
    "no number": (
        '{"caption": NaN}',
        "row 1: column 'caption' must hold text or numbers (got nan); write the text that answers are",
    ),
    "boolean": ('{"caption": true}', "row 1: column 'caption' must hold text or numbers (got True); write"),
    "null": ('{"caption": null}', "row 1: column 'caption' must hold text (got NoneType)"),
    "surrogate": ('{"caption": "a\\ud800b"}', "contains half a surrogate pair"),
    "nested": (
        '{"caption": "a", "more": ' + "[" * 900 + "]" * 900 + "}",
        "test.jsonl:2: not JSON: nested deeper than 100",
    ),
    "nul": ('{"caption": "a\\u0000b"}', "contains a NUL character"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_named(name: str, tmp_path: Path, write_jsonl: Write) -> None:
    line, message = BAD[name]
    write_jsonl("test.jsonl", {"caption": "fine"}, line)
    with pytest.raises(DataError, match=re.escape(message)):
        list(jsonl.open(config(tmp_path), "test.jsonl"))


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_bytes(b'{"caption": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"test.jsonl:1: not UTF-8"):
        jsonl.open(config(tmp_path), "test.jsonl")


def test_missing_things_name_what_is_there(tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("test.jsonl", {"caption": "a", "photo": "b"})
    with pytest.raises(DataError, match="names column 'title'; there are: caption, photo"):
        jsonl.open(config(tmp_path, references=["title"]), "test.jsonl")
    with pytest.raises(DataError, match=r"train.jsonl: no such file; .* has test.jsonl"):
        jsonl.open(config(tmp_path), "train.jsonl")
    write_jsonl("empty.jsonl")
    with pytest.raises(DataError, match="no rows"):
        jsonl.open(config(tmp_path), "empty.jsonl")


def test_a_later_row_without_a_column_is_named(tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("t.jsonl", {"caption": "a", "x": 1}, {"title": "b"})
    for keys in ({}, {"id": "x"}, {"references": [], "meta": ["x"]}):
        with pytest.raises(DataError, match=r"t.jsonl, row 1: no column '(caption|x)'; the row has: title"):
            list(jsonl.open(config(tmp_path, **keys), "t.jsonl"))


@pytest.mark.parametrize("value", ["NaN", '["\\ud800"]'])
def test_metadata_that_json_cannot_hold_is_named(value: str, tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("t.jsonl", f'{{"caption": "a", "x": {value}}}')
    with pytest.raises(DataError, match="row 0: column 'x' .* JSON cannot represent"):
        list(jsonl.open(config(tmp_path, meta=["x"]), "t.jsonl"))


@pytest.mark.parametrize("keys", [{}, {"id": "n"}], ids=["content ids", "id column"])
def test_a_record_is_read_once(
    keys: dict[str, str], tmp_path: Path, write_jsonl: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl("t.jsonl", *({"caption": f"c{n}", "more": ["x"], "n": n} for n in range(5)))
    real, read = _json.JsonRows.read, []

    def counted(lines: Any, index: int) -> dict[str, Any]:
        read.append(index)
        return real(lines, index)

    monkeypatch.setattr(_json.JsonRows, "read", counted)
    rows = jsonl.open(config(tmp_path, references=["caption", "more"], target="sample", **keys), "t.jsonl")
    assert rows.fingerprint == rows.fingerprint
    assert read == [0, *range(5)], "the first one to know its columns, then each once for id and fingerprint"
    read.clear()
    assert rows[3].target == "c3"
    assert read == [3]
    assert rows.with_target(4, 1).target == "x"
    assert read == [3, 4]
    assert [rows.target_count(n) for n in (1, 1, 1)] == [2, 2, 2]
    assert read == [3, 4, 1]


def test_the_fingerprint_sees_into_image_files_and_the_ids_do_not(tmp_path: Path, write_jsonl: Write) -> None:
    seen, ids = [], set()
    write_jsonl("t.jsonl", {"caption": "a", "image": "a.png"}, {"caption": "b", "image": "a.png"})
    body = bytes(20_000)
    for content in (None, body, body + b"x", b"y" + body[1:], body[:-1] + b"y", body):
        if content is not None:
            (tmp_path / "a.png").write_bytes(content)
        rows = jsonl.open(config(tmp_path, image="image"), "t.jsonl")
        seen.append(rows.fingerprint)
        ids.add(tuple(rows.id(n) for n in range(2)))
    assert len(set(seen)) == 5
    assert seen[1] == seen[5]
    assert len(ids) == 1


def test_content_ids_stay_what_they_were(tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("t.jsonl", {"caption": "a", "image": "a.png", "n": [1, None, 2.5]})
    assert jsonl.open(config(tmp_path, image="image", meta=["n"]), "t.jsonl")[0].id == "35f2f6976783a367"


@pytest.mark.parametrize("target", ["each", "sample"])
def test_a_row_without_references_to_choose_from_is_named(target: str, tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("t.jsonl", {"captions": ["a"]}, {"captions": []})
    rows = jsonl.open(config(tmp_path, references=["captions"], target=target), "t.jsonl")
    with pytest.raises(DataError, match="t.jsonl, row 1: no reference to train on"):
        [rows.target_count(n) for n in range(2)]


def test_the_answer_of_a_conversation_can_be_chosen(tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("t.jsonl", {"m": [ASK, {"role": "assistant", "content": "A ball."}]})
    rows = jsonl.open(config(tmp_path, references=[], messages="m", target="sample"), "t.jsonl")
    assert (rows.target_count(0), rows.with_target(0, 0).target) == (1, "A ball.")


def test_a_source_must_not_give_two_images_one_name() -> None:
    def nameless(value: Any, where: str) -> ImageRef:
        return ImageRef("image", lambda: PNG)

    rows = MappedRows(DatasetConfig(source="own"), Records("own [test]", 1, lambda n: {"image": n}, nameless))
    with pytest.raises(DataError, match=r"own \[test\], row 0, column 'image': .*named this image 'image'"):
        rows[0]


def test_ids_given_twice_are_refused_and_equal_content_gets_a_number(tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("test.jsonl", {"caption": "a", "n": 1}, {"caption": "a", "n": 1}, {"caption": "b", "n": 2})
    with pytest.raises(DataError, match="row 1: id '1' is also that of .*test.jsonl, row 0"):
        jsonl.open(config(tmp_path, id="n"), "test.jsonl")
    ids = [example.id for example in jsonl.open(config(tmp_path), "test.jsonl")]
    assert ids[1] == f"{ids[0]}-2"
    assert ids[2] not in ids[:2]


def test_content_ids_do_not_depend_on_other_rows(tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("test.jsonl", {"caption": "a"}, {"caption": "b"})
    write_jsonl("other.jsonl", {"caption": "b"})
    both, one = (jsonl.open(config(tmp_path), name) for name in ("test.jsonl", "other.jsonl"))
    assert both[1].id == one[0].id
    assert both.fingerprint != one.fingerprint


@pytest.mark.parametrize(
    "path", ["../outside.png", "/etc/passwd", "link.png", "http://example.org/a.png", "a\0.png", "\ud800.png"]
)
def test_images_outside_the_folder_are_refused(path: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "outside.png").write_bytes(PNG)
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "test.jsonl").write_text(json.dumps({"caption": "x", "image": path}))
    with pytest.raises(DataError):
        jsonl.open(config(folder, image="image"), "test.jsonl")[0]


def test_images_that_are_no_files_are_named_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(3 << 30)
    (tmp_path / "loop.png").symlink_to("loop.png")
    says = {"pipe": "not a regular", "folder": "not a regular", "sparse": "at most 536,870,912", "loop": "symbolic"}
    for name, message in says.items():
        (tmp_path / "test.jsonl").write_text(json.dumps({"image": f"{name}.png", "caption": "x"}))
        row = jsonl.open(config(tmp_path, image="image"), "test.jsonl")[0]
        with pytest.raises(ImageError, match=message):
            decode_rgb(row.images[0])


def test_targets(tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("test.jsonl", {"a": "One.", "b": "Two."})
    for target, taught in ((None, ["One."]), ("b", ["Two."]), ("each", ["One.", "Two."]), ("sample", ["One.", "Two."])):
        rows = jsonl.open(config(tmp_path, references=["a", "b"], target=target), "test.jsonl")
        assert [rows.with_target(0, n).target for n in range(rows.target_count(0))] == taught


def test_whole_numbers_are_answers_in_decimal_digits(tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("t.jsonl", {"caption": 3, "more": [0, -12, "x"]}, {"caption": 10**20, "more": []})
    rows = jsonl.open(config(tmp_path, references=["caption", "more"], target="caption"), "t.jsonl")
    assert [row.truth["references"] for row in rows] == [["3", "0", "-12", "x"], ["100000000000000000000"]]
    assert rows[0].target == "3"


def test_a_path_with_the_other_slash_says_which_file_is_there(tmp_path: Path, write_jsonl: Write) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/slash.png").write_bytes(PNG)
    write_jsonl("t.jsonl", {"caption": "a", "image": "p\\slash.png"}, {"caption": "b", "image": "p\\gone.png"})
    rows = jsonl.open(config(tmp_path, image="image"), "t.jsonl")
    with pytest.raises(DataError, match=r"row 0.*no such file, but p/slash.png exists; separate folders with /"):
        decode_rgb(rows[0].images[0])
    with pytest.raises(DataError, match=r"row 1.*No such file"):
        decode_rgb(rows[1].images[0])


def test_limit_reads_the_first_rows(tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("test.jsonl", {"caption": "a"}, {"caption": "b"}, "{broken")
    assert len(jsonl.open(config(tmp_path), "test.jsonl", limit=2)) == 2


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_file_is_rows_or_a_named_error(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "test.jsonl").write_bytes(b"\n".join(lines))
    try:
        list(jsonl.open(config(folder), "test.jsonl"))
    except DataError as error:
        assert "test.jsonl" in str(error)


def test_default_splits_are_the_usual_file_names() -> None:
    assert jsonl.Config(path="x").splits == Splits(
        train="train.jsonl", validation="validation.jsonl", test="test.jsonl"
    )
    assert DatasetConfig(source="hub").splits.validation == "validation"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
    """Without permission, or gone since it was opened."""
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(EnvironmentProblem, match=r"folder.jsonl: Is a directory; check that it exists"):
        JsonRows(tmp_path / "folder.jsonl")
    file = write_jsonl("gone.jsonl", {"a": 1})
    rows = JsonRows(file)
    file.unlink()
    with pytest.raises(EnvironmentProblem, match=r"gone.jsonl: No such file"):
        rows.read(0)


def test_another_scan_with_the_same_margins_is_another_dataset(write_jsonl: Callable[..., Path]) -> None:
    """Of an uncompressed page size and both ends stay what they were."""
    file = write_jsonl("scans.jsonl", {"image": "scan.bmp", "c": "a page"})
    prints = set()
    for side, top in ((160, 30), (160, 90), (700, 200), (700, 400)):
        page = Image.new("RGB", (side, side), "white")
        page.paste("black", (20, top, side - 20, top + side // 8))
        (file.parent / "scan.bmp").write_bytes(encoded(page, "BMP"))
        prints.add(jsonl.open(jsonl.Config(path=str(file.parent), references=["c"]), file.name).fingerprint)
    assert len(prints) == 4


def test_real_paths_are_those_of_the_system_with_folders_remembered_or_not(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "data elsewhere"
    (data / "sub").mkdir(parents=True)
    elsewhere.mkdir()
    for file in (data / "a.png", data / "sub" / "b.png", elsewhere / "c.png"):
        file.write_bytes(b"x")
    (tmp_path / "link").symlink_to(data)
    (data / "out").symlink_to(elsewhere)
    (data / "c.png").symlink_to(elsewhere / "c.png")
    (data / "in.png").symlink_to("sub/b.png")
    (data / "loop.png").symlink_to("loop.png")
    names = ["a.png", "sub/b.png", "sub", "sub/", "", ".", "..", "sub/..", "sub/../a.png", "out", "out/c.png", "c.png"]
    names += ["in.png", "loop.png", "none/none.png", "out/../a.png", "../data/a.png", "../data elsewhere/c.png", "//a"]
    names += [f"{folder}/{name}" for folder in (data, elsewhere, tmp_path / "link") for name in names[:3]]
    for roots in ([str(data)], [str(tmp_path / "link")], [f"{data}/"], [str(data), str(elsewhere)], ["/"]):
        remembered = functools.lru_cache(None)(os.path.realpath)
        for name in names:
            real = Path(os.path.realpath(Path(roots[0], name)))
            expected = str(real) if any(real.is_relative_to(os.path.realpath(root)) for root in roots) else None
            assert resolve(name, roots) == resolve(name, roots, remembered) == expected, (name, roots)
