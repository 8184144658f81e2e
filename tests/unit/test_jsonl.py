"""JSONL rows: columns to roles, chat rows, images by path and base64, and every way in which a file can be wrong."""

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pieces import encoded, picture

from vlmtune.data import DatasetConfig, Splits, jsonl
from vlmtune.errors import DataError
from vlmtune.images import decode_rgb
from vlmtune.types import ImageRef, Turn

Write = Callable[..., Path]
PNG = encoded(picture(12, 8))


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
    assert example.turns is not None
    assert [turn.role for turn in example.turns] == ["system", "user", "assistant", "user"]
    assert [type(part) for part in example.turns[1].content] == [ImageRef, str, ImageRef]
    assert (example.target, example.truth["references"]) == ("Yes.", ["Yes."])


def test_images_nobody_places_stand_before_the_first_question(tmp_path: Path, write_jsonl: Write) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    write_jsonl("t.jsonl", {"m": [{"role": "user", "content": "What?"}], "images": ["a.png"]})
    example = jsonl.open(config(tmp_path, references=[], messages="m", images="images"), "t.jsonl")[0]
    assert example.turns == (Turn("user", (example.images[0], "What?")),)


BAD = {
    "not json": ("{oops", "test.jsonl:2: not JSON"),
    "not an object": ("[1]", "test.jsonl:2: a row must be a JSON object"),
    "empty caption": ('{"caption": "  "}', "row 1: column 'caption' is empty"),
    "number": ('{"caption": 3}', "row 1: column 'caption' must hold text"),
    "surrogate": ('{"caption": "a\\ud800b"}', "holds half a surrogate pair"),
    "nul": ('{"caption": "a\\u0000b"}', "holds a NUL character"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_named(name: str, tmp_path: Path, write_jsonl: Write) -> None:
    line, message = BAD[name]
    write_jsonl("test.jsonl", {"caption": "fine"}, line)
    with pytest.raises(DataError, match=message.replace("[", r"\[")):
        list(jsonl.open(config(tmp_path), "test.jsonl"))


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_bytes(b'{"caption": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"test.jsonl:1: not UTF-8"):
        jsonl.open(config(tmp_path), "test.jsonl")


def test_missing_things_name_what_is_there(tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("test.jsonl", {"caption": "a", "picture": "b"})
    with pytest.raises(DataError, match="names column 'title'; there are: caption, picture"):
        jsonl.open(config(tmp_path, references=["title"]), "test.jsonl")
    with pytest.raises(DataError, match=r"train.jsonl: no such file; .* has test.jsonl"):
        jsonl.open(config(tmp_path), "train.jsonl")
    write_jsonl("empty.jsonl")
    with pytest.raises(DataError, match="no rows"):
        jsonl.open(config(tmp_path), "empty.jsonl")


def test_ids_given_twice_are_refused_and_equal_content_gets_a_number(tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("test.jsonl", {"caption": "a", "n": 1}, {"caption": "a", "n": 1}, {"caption": "b", "n": 2})
    with pytest.raises(DataError, match="id '1' stands in rows 0 and 1"):
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


@pytest.mark.parametrize("path", ["../outside.png", "/etc/passwd", "link.png", "http://example.org/a.png", "a\0.png"])
def test_images_outside_the_folder_are_refused(path: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "outside.png").write_bytes(PNG)
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    import json

    (folder / "test.jsonl").write_text(json.dumps({"caption": "x", "image": path}))
    with pytest.raises(DataError):
        jsonl.open(config(folder, image="image"), "test.jsonl")[0]


def test_targets(tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("test.jsonl", {"a": "One.", "b": "Two."})
    for target, taught in ((None, ["One."]), ("b", ["Two."]), ("each", ["One.", "Two."]), ("sample", ["One.", "Two."])):
        rows = jsonl.open(config(tmp_path, references=["a", "b"], target=target), "test.jsonl")
        assert [rows.taught(0, n).target for n in range(rows.choices(0))] == taught


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
    assert jsonl.Config(path="x").splits == Splits(train="train.jsonl", select="validation.jsonl", test="test.jsonl")
    assert DatasetConfig(source="hub").splits.select == "validation"
