"""Tasks can read their own targets, find answers in what models write around them, and name bad rows."""

import json
from dataclasses import replace
from typing import Any

import pytest
from builders import SAME_BOX, make_image, ref
from hypothesis import given
from hypothesis import strategies as st

from vlmtune import registry
from vlmtune.boxes import labelled
from vlmtune.errors import DataError
from vlmtune.metrics import acc_at_05, accuracy, field_f1
from vlmtune.predictions import Line
from vlmtune.scoring.score import choose_metrics
from vlmtune.tasks import classification, extraction, for_model, grounding, parse_answer, unwrap_references, vqa
from vlmtune.types import Example, Message, Unparsed

LABELS = ["night", "night street", "grass", "new-york"]


def example(reference: str = "red", **more: Any) -> Example:
    truth = {"references": [reference], **more.pop("truth", {})}
    row = Example(id="r1", images=(ref(make_image(200, 100), "a"),), target=reference, truth=truth, cluster="r1")
    return replace(row, **more)


CASES = [
    ("captioning", {}, example("A red ball on the grass .")),
    ("vqa", {}, example("two", question="How many?")),
    ("docvqa", {}, example("12.5 %", question="How much?")),
    ("chartqa", {}, example("0.4", question="How much?")),
    ("classification", {"labels": LABELS}, example("night street")),
    (
        "grounding",
        {},
        example("", question="b", truth={"boxes": [[20, 10, 60, 90], [0, 0, 9, 9]], "box_labels": ["cat", "dog"]}),
    ),
    ("ocr", {}, example("STOP\nhere")),
    ("extraction", {}, example('{"total": "12", "items": [{"name": "cake", "count": 2}]}')),
]


@pytest.mark.parametrize(("name", "options", "row"), CASES, ids=[case[0] for case in CASES])
def test_a_target_reads_back_as_the_truth(name: str, options: dict[str, Any], row: Example) -> None:
    plugin = registry.load("tasks", name)
    config, task = plugin.Config(**options), plugin.TASK
    truth = task.truth(config, row)
    answer = parse_answer(task, config, task.target(config, row), truth)
    for metric in task.metrics:
        # VQA's two metrics want more than one reference, and those with a `check` may lack what they need here.
        unfit = metric.check is not None or metric.name in ("vqa_accuracy", "textvqa_accuracy")
        if metric.truth in truth and not unfit:
            score = float(metric.summarise(metric.measure([answer], [truth[metric.truth]]).sum(axis=0)))
            # One row alone has no rare words for CIDEr, and hits one of four labels.
            known = {"cider_d": 0.0, "macro_f1": 0.25}
            best = known.get(metric.name, metric.scale if metric.higher_is_better else 0.0)
            assert score == pytest.approx(best, abs=0.02 * metric.scale), metric.name


def test_every_shipped_task_has_a_case() -> None:
    assert sorted(case[0] for case in CASES) == registry.available("tasks")


@pytest.mark.parametrize(("name", "options", "row"), CASES, ids=[case[0] for case in CASES])
def test_a_conversation_shows_the_image_and_ends_with_the_user(
    name: str, options: dict[str, Any], row: Example
) -> None:
    plugin = registry.load("tasks", name)
    config = plugin.Config(system="Be brief.", **options)
    system, user = plugin.TASK.prompt(config, row)
    assert system == Message("system", ("Be brief.",))
    assert (user.role, user.content[0]) == ("user", row.images[0])
    assert "{" not in str(user.content[1])
    own = (Message("user", (row.images[0], "My own words?")),)
    assert plugin.TASK.prompt(plugin.Config(**options), replace(row, messages=own)) == own


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("night", "night"),
        (" Night street. ", "night street"),
        ("**Grass**", "grass"),
        ("The label is: grass", "grass"),
        ("This is a night street scene", "night street"),
        ("New York", "new-york"),
        ("grass or night", None),
        ("grasshopper", None),
        ("", None),
    ],
)
def test_labels_are_found_in_what_models_write(text: str, label: str | None) -> None:
    answer = classification.parse(classification.Config(labels=LABELS), text)
    assert isinstance(answer, Unparsed) if label is None else answer == label


@pytest.mark.parametrize(("unit", "corners", "box"), SAME_BOX)
def test_boxes_in_every_unit_are_the_same_box(unit: Any, corners: Any, box: list[float]) -> None:
    config = grounding.Config(unit=unit, corners=corners)
    row = example("", question="ball", truth={"boxes": box})
    (box,) = grounding.truth(config, row)["boxes"]
    assert box == pytest.approx([100, 100, 300, 900])
    assert json.loads(grounding.target(config, row)) == [{"bbox_2d": [100, 100, 300, 900], "label": "ball"}]


def test_classes_are_written_and_read_back() -> None:
    """A prompt that names the classes needs no question; an image may show none of them."""
    config = grounding.Config(unit="norm1000", prompt="Detect every cat and dog; answer in JSON.")
    row = example("", truth={"boxes": [[1, 2, 3, 4], [5, 6, 7, 8]], "box_labels": ["cat", "d\xf6g"]})
    (message,) = grounding.TASK.prompt(config, row)
    assert message.content[1] == "Detect every cat and dog; answer in JSON."
    text = grounding.target(config, row)
    assert json.loads(text) == [{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox_2d": [5, 6, 7, 8], "label": "d\xf6g"}]
    truth = grounding.truth(config, row)
    expected = [{"box": [1, 2, 3, 4], "label": "cat"}, {"box": [5, 6, 7, 8], "label": "d\xf6g"}]
    assert truth == {"references": [""], "boxes": expected}
    assert parse_answer(grounding.TASK, config, text, truth) == expected
    nothing = example("", truth={"boxes": []})
    assert grounding.target(config, nothing) == "[]"
    assert parse_answer(grounding.TASK, config, "[]", grounding.truth(config, nothing)) == []


def test_forms_with_a_scale_of_their_own_keep_it() -> None:
    """Where the model writes pixels of an image of 280 x 140, `box_2d` and fractions still are of the sides."""
    truth = {"references": [], "boxes": [[100, 100, 300, 900]], "box_scale": [280, 140]}
    for text in (
        '[{"bbox_2d": [28, 14, 84, 126]}]',
        '[{"box_2d": [100, 100, 900, 300]}]',
        "[0.1, 0.1, 0.3, 0.9]",
        "10%, 10%, 30%, 90%",
        "<loc_100><loc_100><loc_300><loc_900>",
        "<loc0102><loc0102><loc0922><loc0307>",
    ):
        (box,) = parse_answer(grounding.TASK, grounding.Config(), text, truth)
        assert labelled(box).box == pytest.approx([100, 100, 300, 900], abs=1), text


@pytest.mark.parametrize(
    ("rows", "primary"),
    [
        ([[[1, 2, 3, 4]], [[5, 6, 7, 8]]], "acc_at_05"),
        ([[[1, 2, 3, 4]], [[5, 6, 7, 8], [1, 2, 3, 4]]], "f1_at_05"),
        ([[[1, 2, 3, 4]], []], "f1_at_05"),
        ([[{"box": [1, 2, 3, 4], "label": "cat"}]], "f1_at_05"),
    ],
)
def test_the_primary_metric_of_boxes_depends_on_their_number(rows: list[Any], primary: str) -> None:
    lines = [Line(str(n), "[]", {"references": [], "boxes": boxes}) for n, boxes in enumerate(rows)]
    names = [metric.name for metric in choose_metrics(grounding.TASK, None, lines)]
    assert names[0] == primary
    assert ("coco_map" in names) == (primary == "f1_at_05")
    assert [metric.name for metric in choose_metrics(grounding.TASK, ["coco_map"], lines)] == ["coco_map"]


def test_boxes_on_the_model_s_scale_are_written_and_read_back() -> None:
    """The numbers of the example in the docstring of `boxes`; the prediction line carries the scale."""
    config = grounding.Config(corners="xywh")
    task = for_model(grounding.TASK, lambda row: replace(row, box_scale=(280, 140)), lambda row: row)
    row = example("", question="ball", truth={"boxes": [20, 10, 40, 80]})
    text, truth = task.target(config, row), task.truth(config, row)
    assert json.loads(text) == [{"bbox_2d": [28, 14, 84, 126], "label": "ball"}]
    assert truth["boxes"] == [[100, 100, 300, 900]]
    assert parse_answer(task, config, text, truth) == [{"box": [100, 100, 300, 900], "label": "ball"}]
    assert parse_answer(task, config, text, {}) == [{"box": [28, 14, 84, 126], "label": "ball"}], (
        "without a scale: 0 to 1000"
    )
    assert isinstance(parse_answer(task, config, "nowhere", truth), Unparsed)
    assert for_model(vqa.TASK, pytest.fail, lambda row: row).truth(vqa.Config(), row) == row.truth


@pytest.mark.parametrize("scale", [[280], [0, 140], ["a", "b"], "ab", 5])
def test_a_malformed_scale_is_named(scale: Any) -> None:
    with pytest.raises(DataError, match="'box_scale' must be two positive numbers"):
        parse_answer(grounding.TASK, grounding.Config(), "[1, 2, 3, 4]", {"box_scale": scale})


@pytest.mark.parametrize(
    ("text", "record"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Sure!\n```json\n{"a": {"b": [1]}}\n```\nDone.', {"a": {"b": [1]}}),
        ('[{"a": 1}]', {"a": 1}),
        ('{"a": 1} {"a": 2}', {"a": 1}),
        ("[1, 2]", None),
        ('{"a": ', None),
        ("a: 1", None),
    ],
)
def test_records_are_found_in_what_models_write(text: str, record: Any) -> None:
    answer = extraction.parse(extraction.Config(), text)
    assert isinstance(answer, Unparsed) if record is None else answer == record


@pytest.mark.parametrize(
    "text", ["U.S.", "Apple Inc.", "5'11\"", '"STOP"', " 5\n", "etc..", "`x`", "«a»", "a <answer> b"]
)
@pytest.mark.parametrize("name", ["vqa", "docvqa", "chartqa", "ocr", "captioning"])
def test_metrics_see_plain_answers_as_they_are(name: str, text: str) -> None:
    """As the official scripts do: a stop or a quote is part of the answer, as it is of the reference."""
    plugin = registry.load("tasks", name)
    assert parse_answer(plugin.TASK, plugin.Config(), text, {}) == text


WRAPPED = [
    ("<think>\nblue or red?\n</think>\n\nred", "red"),
    ("The opening tag was in the prompt.</think>red.", "red."),
    ("<think>a</think> b <think>c</think>\nU.S.", "U.S."),
    ("<THINKING>a</THINKING>red", "red"),
    ("◁think▷a◁/think▷red", "red"),
    ("[THINK]a[/THINK]red", "red"),
    ("red <think>why?</think>", "red"),
    ("<think>a</think><answer> red </answer>", "red"),
    ("I say <answer>blue</answer>, no: <answer>red</answer>!", "red"),
    ("<answer>red", "red"),
    ("<|begin_of_box|>red<|end_of_box|>", "red"),
    ("<think>a", None),
    ("  <think>a\n<answer>red</answer>", None),
    ("<think>a</think>\n", None),
    ("<think>a</think><think>b", None),
]
BOXED = [
    (r"So it is $\boxed{red}$.", "red"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{\text{red}}", "red"),
    (r"\boxed{blue}, or rather \boxed{red}", "red"),
    (r"<answer>\boxed{ red }</answer>", "red"),
    (r"\boxed{a \} b}", r"a \} b"),
    (r"\boxed{red} or \boxed{blue", "red"),
]


@pytest.mark.parametrize(("text", "answer"), WRAPPED)
@pytest.mark.parametrize("name", ["vqa", "ocr", "captioning"])
def test_what_models_wrap_answers_in_is_removed_for_every_task(name: str, text: str, answer: str | None) -> None:
    plugin = registry.load("tasks", name)
    read = parse_answer(plugin.TASK, plugin.Config(), text, {})
    assert isinstance(read, Unparsed) if answer is None else read == answer


@pytest.mark.parametrize(("text", "answer"), BOXED)
def test_a_box_holds_the_answer_except_where_answers_are_prose(text: str, answer: str) -> None:
    assert parse_answer(vqa.TASK, vqa.Config(), text, {}) == answer
    for name in ("ocr", "captioning"):
        plugin = registry.load("tasks", name)
        assert "boxed" in parse_answer(plugin.TASK, plugin.Config(), text, {})


@pytest.mark.parametrize("text", [r"\boxed{red", "a </answer>", "Write <think> here", "<b>red</b>", "a } { b"])
def test_half_a_wrapping_is_part_of_the_answer(text: str) -> None:
    assert parse_answer(vqa.TASK, vqa.Config(), text, {}) == text


def test_structured_answers_are_unwrapped_before_they_are_read() -> None:
    thought = "<think>fox? {} or [9, 9, 9, 9]</think>"
    config = classification.Config(labels=["fox", "hare"])
    assert parse_answer(classification.TASK, config, f"{thought}A hare", {}) == "hare"
    assert parse_answer(extraction.TASK, extraction.Config(), thought + '{"a": 1}', {}) == {"a": 1}
    assert parse_answer(grounding.TASK, grounding.Config(), thought + "[1, 2, 3, 4]", {}) == [[1, 2, 3, 4]]
    assert parse_answer(vqa.TASK, vqa.Config(), "<think>red", {}) == Unparsed("the thinking was cut off")


def test_references_with_thinking_are_read_as_answers_are() -> None:
    references = ["<think>a</think>\nred", "blue", "<think>never closed", r"\boxed{5}"]
    assert unwrap_references(vqa.TASK, references) == ["red", "blue", "<think>never closed", "5"]
    assert unwrap_references(registry.load("tasks", "ocr").TASK, references)[3] == r"\boxed{5}"


@given(st.text(max_size=200))
def test_any_text_is_an_answer_or_unparsed(text: str) -> None:
    for name, options, _ in CASES:
        plugin = registry.load("tasks", name)
        answer = plugin.TASK.parse(plugin.Config(**options), text)
        assert isinstance(answer, Unparsed) or json.dumps(answer) is not None


def test_an_unparsed_answer_is_wrong_in_every_metric_that_has_right_ones() -> None:
    assert accuracy.measure([None], ["grass"]).sum(axis=0)[0] == 0
    assert acc_at_05.measure([None], [[[1, 2, 3, 4]]]).sum(axis=0)[0] == 0
    assert field_f1.summarise(field_f1.measure([None], [{"a": "1"}]).sum(axis=0)) == 0


@pytest.mark.parametrize(
    ("name", "options", "row", "message"),
    [
        ("vqa", {}, example("two"), "r1: no question; set dataset.question"),
        ("classification", {"labels": LABELS}, example("beach"), "r1: 'beach' is not one of task.labels"),
        ("grounding", {}, example("", question="ball"), "r1: needs a box of four numbers"),
        ("grounding", {}, example("", question="b", truth={"boxes": [1, 2, 3]}), "r1: needs a box of four numbers"),
        (
            "grounding",
            {},
            example("", question="b", truth={"boxes": [{"bbox": [1, 2, 3, 4], "label": "a"}, [1, 2, 3, 4]]}),
            "r1: has boxes with and without a label",
        ),
        ("extraction", {}, example("total 12"), "r1: the reference is not JSON"),
        ("extraction", {}, example("[1]"), "r1: the reference must be a JSON object"),
        ("extraction", {"fields": ["total"]}, example('{"sum": 1}'), "r1: 'sum' is not one of task.fields: total"),
    ],
)
def test_bad_rows_are_named(name: str, options: dict[str, Any], row: Example, message: str) -> None:
    plugin = registry.load("tasks", name)
    config = plugin.Config(**options)

    def try_it() -> None:
        plugin.TASK.prompt(config, row)
        plugin.TASK.target(config, row)

    with pytest.raises(DataError, match=message):
        try_it()


def test_a_prompt_without_its_placeholder_is_refused() -> None:
    with pytest.raises(ValueError, match="must contain {question}"):
        vqa.Config(prompt="Answer!")
