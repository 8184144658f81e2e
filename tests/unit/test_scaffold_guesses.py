"""What `vlmtune init` must not guess wrong: questions, answers in odd types, splits, placeholders, settings."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import encoded, make_image
from PIL import Image

from vlmtune.cli.app import main
from vlmtune.config import Config, load, parse_overrides
from vlmtune.data import ROLES, open_role
from vlmtune.errors import ConfigError, DataError
from vlmtune.scaffold.questions import Undecided
from vlmtune.scaffold.settings import estimate_tokens
from vlmtune.scaffold.writer import write

MANY = 60


@pytest.fixture(autouse=True)
def work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def images(folder: str) -> None:
    Path(folder).mkdir(parents=True)
    for n in range(MANY):
        Path(folder, f"{n}.png").write_bytes(encoded(make_image(40, 20, seed=n)))


def rows(name: str, record: Any) -> str:
    """A folder with images and a file of rows; `record` makes the n-th."""
    folder = Path(name).parent
    if not folder.exists():
        images(f"{folder}/pics")
    lines = [json.dumps({"image": f"pics/{n}.png", **record(n)}) + "\n" for n in range(MANY)]
    Path(name).write_text("".join(lines), encoding="utf-8")
    return str(folder)


def init(folder: str, *sets: str) -> Config:
    Path("init.yaml").unlink(missing_ok=True)
    write(folder, Path("init.yaml"), parse_overrides(["model.name=tiny", *sets]))
    return load("init.yaml").config


ANSWERS = {
    "objects": ([{"answer": "red", "answer_id": 1}, {"answer": "dark red", "answer_id": 2}], ["red", "dark red"]),
    "an object": ({"answer": "red", "answer_confidence": "yes"}, ["red"]),
    "floats that pandas made of integers": (7.0, ["7"]),
    "fractions": (0.25, ["0.25"]),
    "numbers": ([1, 2.5], ["1", "2.5"]),
    "a list as JSON text": ('["red", "dark red"]', ["red", "dark red"]),
    "a list as Python text": ("['red', 'dark red']", ["red", "dark red"]),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_question_is_never_taught_whatever_the_type_of_the_answers(name: str) -> None:
    value, references = ANSWERS[name]
    key = "answers" if isinstance(value, list) else "answer"
    config = init(rows("vqa/train.jsonl", lambda n: {"question": f"What is {n}?", key: value}))
    assert (config.task.name, config.dataset.question) == ("vqa", "question") or name == "an object"
    assert open_role(config.dataset, "train")[0].truth["references"] == references


@pytest.mark.parametrize("column", ["question", "query", "prompt", "instruction"])
def test_a_question_without_an_answer_is_not_a_caption(column: str) -> None:
    with pytest.raises(DataError, match="cannot infer the question and the answer"):
        init(rows("q/train.jsonl", lambda n: {column: f"What is {n}?", "answer": [[n]]}))


def test_lists_in_the_cells_of_a_csv_file() -> None:
    images("csv/pics")
    for text in ('"[""red"", ""dark red""]"', "\"['red', 'dark red']\""):
        lines = "".join(f"pics/{n}.png,What {n}?,{text}\n" for n in range(MANY))
        Path("csv/rows.csv").write_text(f"image,question,answers\n{lines}")
        assert open_role(init("csv").dataset, "train")[0].truth["references"] == ["red", "dark red"]


def test_validation_and_test_files_leave_the_test_file_alone() -> None:
    for role in ("val", "test"):
        rows(f"two/{role}.jsonl", lambda n, role=role: {"caption": f"{role} {n}"})  # type: ignore[misc]
    config = init("two")
    assert config.dataset.splits.model_dump() == {"train": "val.jsonl", "validation": "val.jsonl", "test": "test.jsonl"}
    assert all(row.target.startswith("val") for row in open_role(config.dataset, "train"))  # type: ignore[union-attr]


def test_a_test_file_alone_is_not_trained_on_without_being_asked() -> None:
    folder = rows("one/test.jsonl", lambda n: {"caption": f"test {n}"})
    with pytest.raises(Undecided, match=r"only a test split, test.jsonl.*\n  --set dataset.splits.train=test.jsonl"):
        init(folder)
    config = init(folder, "dataset.splits.train=test.jsonl")
    assert config.dataset.shares is not None


@pytest.mark.parametrize("names", [("train", "val", "test"), ("train", "restval", "val", "test"), ("train", "test")])
def test_an_official_split_column_is_used(names: tuple[str, ...]) -> None:
    folder = rows(
        "official/data.jsonl", lambda n: {"caption": f"{names[n % len(names)]} {n}", "split": names[n % len(names)]}
    )
    config = init(folder)
    assert config.dataset.split_column == "split"
    for role, allowed in (("train", {"train", "restval"}), ("test", {"test"})):
        found = {str(row.target).split()[0] for row in open_role(config.dataset, role)}  # type: ignore[arg-type]
        assert found == allowed & set(names)
    assert sum(len(open_role(config.dataset, role)) for role in ROLES) == MANY


def test_splits_named_in_capitals_are_known_and_the_test_rows_left_alone() -> None:
    names = ("Training", "PublicTest", "PrivateTest")
    config = init(rows("fer/rows.jsonl", lambda n: {"caption": f"{names[n % 3]} {n}", "Usage": names[n % 3]}))
    assert (config.dataset.split_column, config.dataset.splits.test) == ("Usage", "PublicTest|PrivateTest")
    assert all(str(row.target).startswith("Training") for row in open_role(config.dataset, "train"))


def test_folders_named_like_splits_are_not_labels() -> None:
    for split in ("train", "val"):
        images(f"bare/images/{split}")
    with pytest.raises(ConfigError, match="train, val are names of splits, not labels"):
        init("bare")


@pytest.mark.parametrize(
    ("column", "values", "role"),
    [
        ("is_test", (False, True), "test"),
        ("in_test_set", (0, 1), "test"),
        ("istest", ("no", "yes"), "test"),
        ("is_train", (False, True), "train"),
        ("holdout", ("0", "1"), "test"),
        ("is_val", (False, True), "validation"),
    ],
)
def test_a_column_that_says_whether_a_row_is_in_a_split_is_used(column: str, values: Any, role: str) -> None:
    """Also where the first rows, which alone are inspected, are all in one."""
    folder = rows("data/rows.jsonl", lambda n: {"caption": f"thing {n} on a table", column: values[n >= 52]})
    dataset = init(folder).dataset
    assert dataset.split_column == column
    assert getattr(dataset.splits, role) == str(values[True])
    assert getattr(dataset.splits, "test" if role == "train" else "train") == str(values[False])
    ids = {role: {row.id for row in open_role(dataset, role)} for role in ROLES}
    assert sum(map(len, ids.values())) == len(set.union(*ids.values())) == MANY
    outside = {"test": ["train", "validation"], "train": ["test"], "validation": ["train"]}[role]
    assert sum(len(ids[other]) for other in outside) == 52


@pytest.mark.parametrize("mark", ["<bbox>", "<ref-object>"])
def test_placeholders_of_other_programs_are_refused(mark: str) -> None:
    messages = [{"role": "user", "content": "<image>Find it"}, {"role": "assistant", "content": mark}]
    with pytest.raises(DataError, match=f"column 'messages' contains the placeholder {mark}"):
        init(rows("swift/train.jsonl", lambda n: {"messages": messages}))


def test_messages_with_objects_need_no_other_boxes() -> None:
    messages = [{"role": "user", "content": "<image>Find <ref-object>"}, {"role": "assistant", "content": "<bbox>"}]
    objects = {"ref": ["ball"], "bbox": [[1, 2, 3, 4]]}
    made = lambda n: {"messages": messages, "images": ["pics/1.png"], "objects": objects}  # noqa: E731
    config = init(rows("swift/train.jsonl", made))
    assert config.dataset.messages == "messages"
    assert config.dataset.objects == "objects"


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ("dataset.limit.train=-3", "^bad.yaml.*dataset.limit.train must be greater than 0"),
        ("training.epochs=0", "^bad.yaml.*training.epochs must be greater than 0"),
        ("dataset.imag=x", "unknown key 'dataset.imag'; did you mean 'image'"),
    ],
)
def test_what_is_set_wrong_is_said_without_inner_paths(sets: str, said: str) -> None:
    folder = rows("bad/train.jsonl", lambda n: {"caption": f"A fox {n}"})
    with pytest.raises(ConfigError, match=said) as error:
        write(folder, Path("bad.yaml"), parse_overrides(["model.name=tiny", sets]))
    assert "tmp" not in str(error.value)


def test_image_marks_before_a_question_are_no_text() -> None:
    config = init(rows("marks/train.jsonl", lambda n: {"query": "<image>\nWhat is it?", "response": f"A {n}."}))
    assert open_role(config.dataset, "train")[0].question == "What is it?"
    with pytest.raises(DataError, match="has <image> between words"):
        init(rows("marks/train.jsonl", lambda n: {"query": "What is <image> it?", "response": f"A {n}."}))


def test_two_columns_that_may_be_the_answer_are_a_question() -> None:
    folder = rows("two/train.jsonl", lambda n: {"caption": f"A fox {n}.", "label": ("fox", "hare")[n % 2]})
    with pytest.raises(Undecided) as undecided:
        init(folder)
    assert [option.sets for option in undecided.value.options] == [
        ("dataset.references=[label]", "task.name=classification"),
        ("dataset.references=[caption]", "task.name=captioning"),
    ]
    for option in undecided.value.options:
        assert init(folder, *option.sets).task.name == option.sets[1].partition("=")[2]


def test_the_command_asks_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = rows("two/train.jsonl", lambda n: {"caption": f"A fox {n}.", "label": ("fox", "hare")[n % 2]})
    monkeypatch.setattr(sys, "argv", ["vlmtune", "init", folder, "-o", "asked.yaml", "--set", "model.name=tiny"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 3
    assert "--set task.name=classification" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.prompt", lambda *_, **__: 1)
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert load("asked.yaml").config.task.name == "classification"


def test_a_message_never_lists_a_thousand_columns() -> None:
    with pytest.raises(DataError, match=r"and \d+ more") as error:
        init(rows("wide/train.jsonl", lambda n: {"image": 3, **{f"c{k}": k for k in range(1000)}}))
    assert len(str(error.value)) < 700


def test_images_that_cannot_be_decoded_are_named_by_their_endings() -> None:
    with pytest.raises(DataError, match=r"'image' names files that end in \.svg .*\.png"):
        init(rows("svg/train.jsonl", lambda n: {"image": f"drawn/circle{n}.svg", "caption": f"A circle {n}"}))


def test_long_references_and_large_scans_get_settings_that_fit() -> None:
    record = {"shop": "NORTHERN HARBOUR TRADING COMPANY", "address": "UNIT 7, LONG MARKET STREET, 90000 NORTH HARBOUR"}
    folder = rows("scans/train.jsonl", lambda n: {"ground_truth": json.dumps({**record, "total": f"{n}.50"})})
    for n in range(MANY):
        Image.new("1", (2480 + n, 3508)).save(f"scans/pics/{n}.png")
    config = init(folder)
    tokens = config.inference.max_new_tokens
    assert tokens >= estimate_tokens(json.dumps({**record, "total": "59.50"}))
    assert config.model.max_pixels == 2_359_296
    assert init(folder, "inference.max_new_tokens=32", "model.max_pixels=100000").inference.max_new_tokens == 32


def test_captions_without_spaces_are_compared_by_characters() -> None:
    assert (
        init(rows("zh/train.jsonl", lambda n: {"caption": f"一只红色的狐狸在雪地里 {n}"})).evaluation.primary == "chrf"
    )


def test_sentences_as_answers_are_scored_as_text() -> None:
    answer = "It stands on the left of the second shelf of this room."
    config = init(rows("long/train.jsonl", lambda n: {"question": f"Where is {n}?", "answer": answer}))
    assert (config.task.name, config.task.model_dump()["prompt"]) == ("captioning", "{question}")


def test_of_several_tables_the_one_that_names_images_is_read() -> None:
    images("nested/color/72")
    Path("nested/codes.csv").write_text("code,name\n1,x\n")
    lines = "".join(f"color/72/{n}.png,thing number {n}\n" for n in range(MANY))
    Path("nested/list.csv").write_text(f"picture,name\n{lines}")
    config = init("nested")
    assert (config.dataset.splits.train, config.dataset.references) == ("list.csv", ["name"])


@pytest.mark.parametrize(
    "answer",
    ["red", [{"role": "assistant", "content": [{"type": "text", "text": "red"}]}], {"from": "gpt", "value": "red"}],
)
@pytest.mark.parametrize("column", ["completion", "chosen"])
def test_answers_beside_a_prompt_of_messages(column: str, answer: Any) -> None:
    asked = [{"role": "user", "content": "<image>What?"}]
    found = init(rows("data/rows.jsonl", lambda n: {"prompt": asked, column: answer, "rejected": answer}))
    assert (found.dataset.messages, found.dataset.references) == ("prompt", [column])
    assert open_role(found.dataset, "train")[0].target == "red"


def test_what_belongs_to_an_instruction_is_not_left_out_in_silence() -> None:
    record = {"instruction": "What is it?", "input": "Be brief.", "output": "red", "history": [["Hi", "Hello"]]}
    found = init(rows("data/rows.jsonl", lambda n: record))
    assert sorted(found.dataset.ignored_keys) == ["history", "input"]
    strict = found.dataset.model_copy(update={"ignored_keys": ["history"]})
    with pytest.raises(DataError, match=r"row 0: the key 'input' \('Be brief.'\) is not read"):
        open_role(strict, "train")[0]
