"""Conversations as others write them: ShareGPT, LLaVA, LLaMA-Factory, OpenAI; one array file; marks for images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet
import pytest
from builders import encoded, make_image

from vlmtune.data import jsonl, table
from vlmtune.data._rows import MappedRows
from vlmtune.errors import DataError
from vlmtune.images import decode_rgb
from vlmtune.types import ImageRef

Write = Callable[..., Path]
PNGS = {f"chat{n}.png": encoded(make_image(10 + n, 8)) for n in range(3)}


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "cache"))
    for name, data in PNGS.items():
        (tmp_path / name).write_bytes(data)


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


def opened(folder: Path, name: str, limit: int | None = None, **keys: str) -> MappedRows:
    config = {"path": str(folder), "messages": "conversations", "images": "image", **keys}
    return jsonl.open(jsonl.Config.model_validate(config), name, limit)


def shown(rows: MappedRows, index: int = 0) -> list[tuple[str, list[Any]]]:
    """Roles and parts of a row; an image by its width less ten, its number."""
    messages = rows[index].messages
    assert messages is not None
    return [
        (one.role, [decode_rgb(part).width - 10 if isinstance(part, ImageRef) else part for part in one.content])
        for one in messages
    ]


LLAVA = [
    {"id": "1", "image": "chat1.png", "conversations": [human("<image>\nWhat is it?"), gpt("A ball.")]},
    {
        "id": "2",
        "image": "chat2.png",
        "conversations": [human("Where?\n<image>"), gpt("Here."), human("Sure?"), gpt("Yes.")],
    },
    {"id": "3", "conversations": [human("Say hello."), gpt("Hello.")]},
]


@pytest.mark.parametrize("indent", [None, 2])
def test_llava_in_one_array(indent: int | None, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("\ufeff \n" + json.dumps(LLAVA, indent=indent), encoding="utf-8")
    rows = opened(tmp_path, "train.json", id="id")
    assert shown(rows, 0) == [("user", [1, "\nWhat is it?"])]
    assert shown(rows, 1) == [("user", ["Where?\n", 2]), ("assistant", ["Here."]), ("user", ["Sure?"])]
    assert shown(rows, 2) == [("user", ["Say hello."])]
    assert [(example.id, example.target) for example in rows] == [("1", "A ball."), ("2", "Yes."), ("3", "Hello.")]
    assert len(opened(tmp_path, "train.json", limit=2)) == 2


def test_the_row_that_has_images_may_come_late(tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("t.jsonl", LLAVA[2], LLAVA[0])
    assert shown(opened(tmp_path, "t.jsonl"), 1) == [("user", [1, "\nWhat is it?"])]
    with pytest.raises(DataError, match="dataset.images names column 'photo'; there are: id, conversations"):
        opened(tmp_path, "t.jsonl", images="photo")


def test_llama_factory_and_mixed_speakers(tmp_path: Path, write_jsonl: Write) -> None:
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Compare <image> with <image>: which?"},
        {"role": "assistant", "content": "The first."},
        {"role": "user", "content": "<image>"},
    ]
    write_jsonl("t.jsonl", {"messages": talk, "images": ["chat0.png", "chat1.png", "chat2.png"]})
    assert shown(opened(tmp_path, "t.jsonl", messages="messages", images="images")) == [
        ("system", ["Be brief."]),
        ("user", ["Compare ", 0, " with ", 1, ": which?"]),
        ("assistant", ["The first."]),
        ("user", [2]),
    ]


def test_parts_and_marks_both_take_images_in_order(tmp_path: Path, write_jsonl: Write) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "and <image> too"}]
    write_jsonl("t.jsonl", {"m": [{"role": "user", "content": parts}], "image": ["chat2.png", "chat0.png"]})
    assert shown(opened(tmp_path, "t.jsonl", messages="m")) == [("user", [2, "and ", 0, " too"])]


def test_white_space_belongs_to_the_text(tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("t.jsonl", {"conversations": [human("  two\n\nlines \n<image>\n"), gpt(" x ")], "image": "chat0.png"})
    rows = opened(tmp_path, "t.jsonl")
    assert shown(rows) == [("user", ["  two\n\nlines \n", 0, "\n"])]
    assert rows[0].target == " x "


def test_images_without_any_mark_stand_first(tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("t.jsonl", {"conversations": [human("What?"), gpt("A.")], "image": ["chat0.png", "chat1.png"]})
    assert shown(opened(tmp_path, "t.jsonl")) == [("user", [0, 1, "What?"])]


BAD: dict[str, tuple[list[Any], Any, str]] = {
    "mark without any image": (
        [human("<image>\nWhat?"), gpt("A.")],
        None,
        "message 0: <image> stands for an image, but the row has no further",
    ),
    "more marks": ([human("<image><image>"), gpt("A.")], "chat0.png", "message 0: <image> stands for an image"),
    "more images": ([human("<image>"), gpt("A.")], ["chat0.png", "chat1.png"], "2 images, but only 1 placeholders"),
    "mark in the answer": (
        [human("Draw."), gpt("<image>")],
        "chat0.png",
        "message 1: an assistant message cannot hold an",
    ),
    "unknown speaker": (
        [{"from": "robot", "value": "x"}],
        None,
        "message 0: needs role .* or from .system, human, user",
    ),
    "speaker without words": ([{"from": "human"}], None, "message 0: needs role"),
    "words of the other kind": ([{"from": "human", "content": "x"}], None, "message 0: needs role"),
    "speaker that is no text": ([{"from": 3, "value": "x"}], None, "message 0: needs role"),
    "a number for images": ([human("x")], 3, "must hold an image or a list of images"),
    "a text for messages": (
        "What?",
        None,
        "messages must be a list of messages, each with role and content, or from and value",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_marks_images_and_speakers_must_fit(name: str, tmp_path: Path, write_jsonl: Write) -> None:
    talk, image, said = BAD[name]
    write_jsonl("t.jsonl", LLAVA[0], {"conversations": talk, "image": image})
    with pytest.raises(DataError, match=f"t.jsonl, row 1.*{said}"):
        opened(tmp_path, "t.jsonl")[1]


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("<image>\nWhat?", None),
        ("What? <image>", None),
        ("See <image> and answer", "between words"),
        ("<image><image>What?", "2 placeholders <image>, but the row 1 images"),
        ("<image>", "is empty"),
    ],
)
def test_a_mark_around_a_question_is_its_image(
    question: str, said: str | None, tmp_path: Path, write_jsonl: Write
) -> None:
    write_jsonl("t.jsonl", {"image": "chat0.png", "q": question, "a": "x"})
    rows = jsonl.open(jsonl.Config(path=str(tmp_path), question="q", references=["a"]), "t.jsonl")
    if said is None:
        assert rows[0].question == "What?"
    else:
        with pytest.raises(DataError, match=f"row 0: column 'q'.*{said}"):
            rows[0]


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_conversations_from_tables(name: str, tmp_path: Path) -> None:
    if name == "t.parquet":
        talk = [
            {"from": "human", "value": "<image>\nWhat?", "role": None},
            {"from": "gpt", "value": "A.", "role": None},
        ]
        row: dict[str, Any] = {"conversations": talk, "image": ["chat1.png"]}
        pyarrow.parquet.write_table(pa.Table.from_pylist([row]), tmp_path / name)
    else:
        text = json.dumps([human("<image>\nWhat?"), gpt("A.")]).replace('"', '""')
        (tmp_path / name).write_text(f'conversations,image\n"{text}",chat1.png\n', encoding="utf-8")
    config = table.Config(path=str(tmp_path), messages="conversations", images="image")
    assert shown(table.open(config, name)) == [("user", [1, "\nWhat?"])]


ARRAYS = {
    "cut": (b'[{"caption": "a"},\n {"caption": "b"', "t.json:2: the array of rows is not closed"),
    "cut in a text": (b'[{"caption": "a"},\n {"caption": "b', "t.json:2: the array of rows is not closed"),
    "trailing comma": (b'[{"caption": "a"},\n]', "t.json:1: an array of rows may contain only JSON objects"),
    "no comma": (b'[{"caption": "a"}\n\n{"caption": "b"}]', "t.json:1: an array of rows may contain only JSON objects"),
    "a number": (b'[{"caption": "a"},\n3]', "t.json:1: an array of rows may contain only JSON objects"),
    "an array": (b'[[{"caption": "a"}]]', "t.json: dataset.references names column 'caption'; there are: column_0"),
    "more behind": (b'[{"caption": "a"}]\n{"caption": "b"}', "t.json:1: text after the end"),
    "broken row": (b'[{"caption": "a"},\n\n {"caption": b}]', "t.json:3: not JSON"),
    "latin-1": ('[\n{"caption": "café"}]'.encode("latin-1"), "t.json:2: not UTF-8"),
    "empty": (b" [ ] ", "t.json: no rows"),
    "one object over many lines": (
        b'{\n"caption": "a"}',
        "t.json:1: not JSON: one object over several lines instead of rows",
    ),
    "one object from its first comma": (b'{"info": {},\n"images": []}', "t.json:1: not JSON: one object over several"),
    "a broken line": (b'{"caption": a}\n{"caption": "b"}', "t.json:1: not JSON: Expecting"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_wrong_are_named_with_their_line(name: str, tmp_path: Path) -> None:
    content, said = ARRAYS[name]
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(DataError, match=said):
        list(jsonl.open(jsonl.Config(path=str(tmp_path), image=None, references=["caption"]), "t.json"))


def test_brackets_and_quotes_in_texts_are_no_structure(tmp_path: Path) -> None:
    texts = ["]}", '{"[', "\\", 'a\\"]', "é“[”", ""]
    texts_in = [text or "x" for text in texts]
    (tmp_path / "t.json").write_text(json.dumps([{"caption": t, "deep": [[{"a": [t]}]]} for t in texts_in]))
    rows = jsonl.open(jsonl.Config(path=str(tmp_path), image=None, references=["caption"]), "t.json")
    assert [example.target for example in rows] == texts_in
