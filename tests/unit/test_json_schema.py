"""Guided decoding: the schema of the train rows, which every one of them obeys, reaches the server."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import encoded, make_image
from fake_server import always, answer, serving
from hypothesis import given
from hypothesis import strategies as st
from json_schema import fits

from vlmtune.config import load
from vlmtune.errors import ConfigError
from vlmtune.json_values import obeys_strict_rules, schema_of
from vlmtune.pipeline.predict import predict
from vlmtune.pipeline.session import open_session
from vlmtune.run_folder import read_manifest

Write = Callable[..., Path]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(VALUES, max_size=5))
def test_values_obey_their_schema(values: list[Any]) -> None:
    schema = schema_of(values)
    assert all(fits(value, schema) for value in values)


def test_a_schema_refuses_what_no_row_has() -> None:
    rows = [{"total": 3, "items": [{"name": "a"}]}, {"total": 2.5, "items": [], "note": None}]
    schema = schema_of(rows)
    assert list(schema["properties"]) == ["total", "items", "note"]
    assert schema["required"] == ["total", "items"]
    assert fits({"total": 1, "items": [{"name": "b"}]}, schema)
    for wrong in ({"total": "3", "items": []}, {"items": []}, {"total": 1, "items": [], "vat": 1}):
        assert not fits(wrong, schema)
    assert not obeys_strict_rules(schema)
    assert obeys_strict_rules(schema_of([row["items"][0] for row in rows[:1]]))


@pytest.fixture
def config(tmp_path: Path, write_jsonl: Write, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Any]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(encoded(make_image(64, 64)))
    for role, total in (("train", 3), ("validation", 4), ("test", "never seen")):
        write_jsonl(f"{role}.jsonl", {"image": "a.png", "answer": json.dumps({"total": total})})

    def loaded(url: str, schema: str) -> Any:
        (tmp_path / "c.yaml").write_text(
            "model: {name: tiny, device: cpu}\n"
            "dataset: {source: jsonl, path: ., references: [answer]}\n"
            "task: {name: extraction, fields: [total]}\n"
            f"inference: {{engine: openai, base_url: '{url}', json_schema: {schema}}}\n"
            "output: {dir: out}\n"
        )
        return load("c.yaml").config

    return loaded


def test_the_schema_of_the_train_rows_is_sent_and_recorded(config: Any) -> None:
    expected = {
        "type": "object",
        "properties": {"total": {"type": "integer"}},
        "required": ["total"],
        "additionalProperties": False,
    }
    with serving(always(answer)) as stub, open_session(config(stub.base_url, "auto")) as session:
        file = predict(session)
        bodies = [body for _, _, body in stub.seen if "response_format" in body]
    assert bodies
    for body in bodies:
        assert body["response_format"]["json_schema"]["schema"] == expected
        assert body["response_format"]["json_schema"]["strict"]
    manifest = read_manifest(file)
    assert manifest is not None
    assert json.loads(manifest["origin"]["inference"]["json_schema"]) == expected


def test_a_file_that_is_no_schema_is_named(config: Any, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    for name in ("missing.json", "list.json"):
        with (
            open_session(config("http://127.0.0.1:9/v1", name)) as session,
            pytest.raises(ConfigError, match=f"json_schema: {name} is no file with a JSON schema"),
        ):
            _ = session.inference
