"""Prediction files: ours come back as they were written, classic ones are read, bad ones are named."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vlmtune.errors import DataError
from vlmtune.predictions import Line, read

WriteJsonl = Callable[..., Path]


def test_a_line_survives_the_file(tmp_path: Path) -> None:
    lines = [
        Line(
            "1",
            "A red\u2028ball \n.",
            {"references": ["a", "b"], "keywords": ["red"]},
            None,
            "A red ball",
            None,
            "stop",
            7,
            "ff",
            "c",
        ),
        Line("2", None, {"references": ["a"]}, {"stage": "image", "reason": "empty"}, cluster="c", meta={"k": [1]}),
        Line("3", "?", {"references": ["a"], "boxes": [[1, 2, 3, 4]]}, unparsed="no box"),
        Line("4", "b", {"references": ["a"]}, tokens=2, token_logprobs=[-0.5, -0.0123]),
    ]
    file = tmp_path / "p.jsonl"
    file.write_text("".join(line.to_json() + "\n" for line in lines), encoding="utf-8")
    assert read(file) == lines
    assert '"logprob": -0.5123' in lines[3].to_json()


def test_classic_files_are_read(write_jsonl: WriteJsonl) -> None:
    file = write_jsonl(
        "c.jsonl",
        {"prediction": "x", "reference": "one"},
        {"id": 7, "prediction": "y", "references": ["one", "two"]},
        {"prediction": "z"},
    )
    lines = read(file)
    assert [(line.id, line.references) for line in lines] == [(None, ("one",)), ("7", ("one", "two")), (None, ())]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{torn", r"p.jsonl:2: not JSON"),
        ("[1]", r"p.jsonl:2: a prediction line is a JSON object"),
        ('{"answer": "x"}', r"p.jsonl:2: .*key 'prediction'"),
        ('{"prediction": 3}', r"p.jsonl:2: prediction: should be a valid string"),
        ('{"prediction": "x", "references": [1]}', r"p.jsonl:2: 'references' must be"),
        ('{"prediction": "x\\ud800"}', r"p.jsonl:2: .*half a surrogate pair"),
        ('{"id": "a", "prediction": "x"}', r"p.jsonl:2: id 'a' is already used in line 1"),
    ],
)
def test_bad_lines_are_named(write_jsonl: WriteJsonl, row: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write_jsonl("p.jsonl", {"id": "a", "prediction": "x", "references": ["r"]}, row))


def test_missing_file_and_wrong_encoding(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such prediction file"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes('{"prediction": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read(tmp_path / "latin.jsonl")


def test_null_without_a_reason_is_a_failure(write_jsonl: WriteJsonl) -> None:
    (line,) = read(write_jsonl("p.jsonl", {"prediction": None, "references": ["r"]}))
    assert line.failure is not None
