"""Multiple-choice questions as datasets write them: the model sees the choices, and a letter is the answer."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import encoded, make_image

from vlmtune.config import Config, load, parse_overrides
from vlmtune.data import open_role
from vlmtune.data._choices import Choices, with_choices
from vlmtune.errors import ConfigError, DataError
from vlmtune.scaffold.questions import Undecided
from vlmtune.scaffold.writer import write
from vlmtune.tasks import classification, parse_answer

MANY = 60
COLOURS = ["red", "green", "blue"]


def init(folder: Path, record: Any, *sets: str) -> Config:
    """The config that `init` writes about rows of which `record` makes the n-th."""
    rows = []
    for n in range(MANY):
        (folder / f"{n}.png").write_bytes(encoded(make_image(40, 20, seed=n)))
        rows.append(json.dumps({"image": f"{n}.png", "question": f"What is {n}?", **record(n)}))
    (folder / "rows.jsonl").write_text("\n".join(rows), "utf-8")
    (folder / "init.yaml").unlink(missing_ok=True)
    write(str(folder / "rows.jsonl"), folder / "init.yaml", parse_overrides(["model.name=tiny", *sets]))
    return load(folder / "init.yaml").config


LAYOUTS: dict[str, Any] = {
    "a list and an index": lambda n: {"choices": COLOURS, "answer": n % 3, "hint": ""},
    "a list as JSON text, and an index as text": lambda n: {"options": json.dumps(COLOURS), "answer": str(n % 3)},
    "a list and a letter": lambda n: {"options": COLOURS, "answer": "ABC"[n % 3]},
    "a list and a text": lambda n: {"options": COLOURS, "answer": COLOURS[n % 3]},
    "a list, counted from 1": lambda n: {"options": COLOURS, "answer": n % 3 + 1},
    "columns A, B, C": lambda n: {"A": "red", "B": "green", "C": "blue", "answer": "ABC"[n % 3]},
    "numbered columns": lambda n: {"option_1": "red", "option_2": "green", "option_3": "blue", "label": COLOURS[n % 3]},
    "labels and texts": lambda n: {"choices": {"label": ["1", "2", "3"], "text": COLOURS}, "answerKey": "123"[n % 3]},
    "an object": lambda n: {"choices": dict(zip("ABC", COLOURS, strict=True)), "answer": "ABC"[n % 3]},
    "a marked letter": lambda n: {"choices": COLOURS, "answer": f"({'abc'[n % 3]})"},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_init_finds_the_choices_and_reads_the_answer(name: str, tmp_path: Path) -> None:
    config = init(tmp_path, LAYOUTS[name])
    assert isinstance(config.task, classification.Config)
    assert config.task.labels == ["A", "B", "C"]
    for example in open_role(config.dataset, "test"):
        assert example.question is not None
        number = int(example.question.split()[2].rstrip("?"))
        assert example.question == f"What is {number}?\nA. red\nB. green\nC. blue"
        assert (example.truth["references"], example.target) == (["ABC"[number % 3]], "ABC"[number % 3])
        said = f"{example.target}. {COLOURS[number % 3]}"
        assert parse_answer(classification.TASK, config.task, said, example.truth) == example.target


def test_numbers_that_count_from_0_or_from_1_are_asked_about(tmp_path: Path) -> None:
    with pytest.raises(Undecided, match="choices_from=0"):
        init(tmp_path, lambda n: {"options": [*COLOURS, "black"], "answer": n % 3 + 1})
    config = init(tmp_path, lambda n: {"options": [*COLOURS, "black"], "answer": n % 3 + 1}, "dataset.choices_from=1")
    assert {example.target for example in open_role(config.dataset, "train")} == {"A", "B", "C"}


def test_answers_that_are_no_choices_are_free_ones(tmp_path: Path) -> None:
    config = init(tmp_path, lambda n: {"choices": COLOURS, "answer": f"it is {n}"})
    assert (config.task.name, config.dataset.choices) == ("vqa", None)


def test_choices_need_a_question(tmp_path: Path) -> None:
    init(tmp_path, LAYOUTS["a list and an index"])
    with pytest.raises(ConfigError, match="stand behind a question"):
        load(tmp_path / "init.yaml", ["dataset.question=null"])


def test_a_text_that_is_a_choice_means_it_even_if_it_is_a_number() -> None:
    choices = Choices({"options": ["2", "3", "1"]}, 0, "row 1")
    assert [choices.letter(value, "answer") for value in ("1", 1, "B", 2.0)] == ["C", "B", "B", "C"]


def test_rows_may_have_fewer_choices_in_the_last_columns() -> None:
    assert Choices({"A": "red", "B": 2, "C": None, "D": float("nan")}, 0, "row 1").texts == ["red", "2"]
    assert with_choices("What?", ["red", "2"]) == "What?\nA. red\nB. 2"


@pytest.mark.parametrize(
    ("values", "answer", "said"),
    [
        ({"options": COLOURS}, 3, r"row 1: column 'answer' must name one of the 3 choices.*number from 0 \(got 3\)"),
        ({"options": COLOURS}, "pink", "must name one of the 3 choices"),
        ({"options": COLOURS}, -1, "must name one of the 3 choices"),
        ({"options": COLOURS}, True, "must name one of the 3 choices"),
        ({"options": ["a", "A"]}, "a", ""),
        ({"options": ["red"]}, 0, r"column 'options' must hold 2 to 26 choices \(got 1\)"),
        ({"options": "red or green"}, 0, r"must hold 2 to 26 choices \(got 0\)"),
        ({"options": ["red", None]}, 0, "must hold text"),
        ({"A": "red", "B": None, "C": "blue"}, "A", "column 'B' is empty"),
    ],
)
def test_bad_choices_are_named(values: dict[str, Any], answer: Any, said: str) -> None:
    if said == "":
        assert Choices(values, 0, "row 1").letter(answer, "answer") == "A"
        return
    with pytest.raises(DataError, match=said):
        Choices(values, 0, "row 1").letter(answer, "answer")


@pytest.mark.parametrize("key", ["path", "file_name", "url"])
def test_an_object_beside_whose_path_its_size_stands_is_an_image(key: str, tmp_path: Path) -> None:
    config = init(
        tmp_path,
        lambda n: {"image": {key: f"{n}.png", "width": 40, "height": 20}, "answer": f"a picture of the number {n}"},
    )
    assert len(open_role(config.dataset, "test")[0].images[0].read()) > 0
