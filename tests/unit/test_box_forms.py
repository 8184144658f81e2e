r"""Boxes are found in whatever form a model writes them; what is ambiguous is unparsed, and named."""

from typing import Any

import pytest
from growth import LINEAR, growth
from hypothesis import given
from hypothesis import strategies as st

from vlmtune.tasks import grounding
from vlmtune.types import Unparsed

A, B = [10, 20, 30, 40], [50, 60, 70, 80]

ONE = """
<|box_start|>(10,20),(30,40)<|box_end|>
<|object_ref_start|>the ball<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>
<ref>ball</ref><box>(10,20),(30,40)</box>
<ref>ball</ref><box>[[10, 20, 30, 40]]</box>
<box>10 20 30 40</box>
<|ref|>ball<|/ref|><|det|>[[10, 20, 30, 40]]<|/det|>
10 20 30 40
10, 20, 30, 40
10,20,30,40
10; 20; 30; 40
Answer: 10, 20, 30, 40.
1. 10 20 30 40
[10 20 30 40]
(10, 20, 30, 40)
The ball is at [10, 20, 30, 40].
The image has 640x480 pixels; the ball is at **(10, 20, 30, 40)**.
(10,20),(30,40)
from (10, 20) to (30, 40)
top-left (10, 20), bottom-right (30, 40)
(10,20), (30,20), (30,40), (10,40)
{"bbox_2d": [10, 20, 30, 40], "label": "ball"}
[{"bbox_2d": [10, 20, 30, 40], "label": "ball"}]
{"bbox_2d": [[10, 20, 30, 40]]}
{"bbox": "10 20 30 40"}
{"bbox": ["10", "20", "30px", "40"]}
{"bounding box": [10, 20, 30, 40]}
{"boundingBox": {"x1": 10, "y1": 20, "x2": 30, "y2": 40}}
{"ball": [10, 20, 30, 40]}
{"answer": {"box": [10, 20, 30, 40]}}
[[[10, 20, 30, 40]]]
[[10, 20], [30, 40]]
{"bbox": [[10, 20], [30, 40]]}
[[10, 20], [30, 20], [30, 40], [10, 40]]
["ball", 10, 20, 30, 40]
[30, 40, 10, 20]
{"bbox_2d": [30, 20, 10, 40]}
{"box_2d": [20, 10, 40, 30], "label": "ball"}
{'box_2d': [20, 10, 40, 30], 'label': 'ball'}
{"box_2d": [20, 10, 40, 30], "label": "ba
{box_2d: [20, 10, 40, 30]}
[ymin, xmin, ymax, xmax] = [20, 10, 40, 30]
{"x1": 10, "y1": 20, "x2": 30, "y2": 40}
{"xmin": 10, "ymin": 20, "xmax": 30, "ymax": 40}
{"ymin": 20, "xmin": 10, "ymax": 40, "xmax": 30}
{"x_min": 10, "y_min": 20, "x_max": 30, "y_max": 40}
{"left": 10, "top": 20, "right": 30, "bottom": 40}
{"x": 10, "y": 20, "width": 20, "height": 20}
{"xywh": [10, 20, 20, 20]}
{"cx": 20, "cy": 30, "w": 20, "h": 20}
{"top_left": [10, 20], "bottom_right": [30, 40]}
{"top_left": {"x": 10, "y": 20}, "bottom_right": {"x": 30, "y": 40}}
{x1: 10, y1: 20, x2: 30, y2: 40}
x1=10, y1=20, x2=30, y2=40
xmin: 10, ymin: 20, xmax: 30, ymax: 40
<bbox x1="10" y1="20" x2="30" y2="40"/>
"[{\\"bbox_2d\\": [10, 20, 30, 40]}]"
\uff0810\uff0c20\uff09\uff0c\uff0830\uff0c40\uff09
{"bbox": [10, 20, 30, 40], "confidence": 0.5}
bbox_2d: 10, 20, 30, 40
box_2d: 20, 10, 40, 30
bbox: 10 20 20 20 (xywh)
[x, y, width, height] = [10, 20, 20, 20]
x: 10-30, y: 20-40
x from 10 to 30, y between 20 and 40
{"center": [20, 30], "size": [20, 20]}
{"centre": {"x": 20, "y": 30}, "width": 20, "height": 20}
ball: [10, 20, 30, 40]
**ball**: (10, 20, 30, 40)
[{"bbox_2d": [10, 20, 30, 40], "label": "ball",}]
左上角 (10, 20)，右下角 (30, 40)
［10，20，30，40］
<|quad_start|>(10,20),(30,20),(30,40),(10,40)<|quad_end|>
[[10, 20, 30, 40, 0.5]]
""".strip().split("\n")

SEVERAL = """
[{"bbox_2d": [10, 20, 30, 40], "label": "a"}, {"bbox_2d": [50, 60, 70, 80], "label": "b"}]
[{"bbox_2d": [10, 20, 30, 40], "label": "a"}, {"bbox_2d": [50, 60, 70, 80], "label": "b"}, {"bbox_2d": [9,
[{"bbox_2d": [10, 20, 30, 40], "label": "a"}, {"box_2d": [60, 50, 80, 70], "lab
{"bbox_2d": [10, 20, 30, 40]} {"bbox_2d": [50, 60, 70, 80]}
{"boxes": [[10, 20, 30, 40], [50, 60, 70, 80]], "labels": ["a", "b"]}
{"<OD>": {"bboxes": [[10, 20, 30, 40], [50, 60, 70, 80]], "labels": ["a", "b"]}}
{"a": [10, 20, 30, 40], "b": [[50, 60, 70, 80]]}
{"objects": [{"name": "a", "box": [10, 20, 30, 40]}, {"name": "b", "box": {"x1": 50, "y1": 60, "x2": 70, "y2": 80}}]}
[[10, 20, 30, 40], [50, 60, 70, 80]]
[10, 20, 30, 40, 50, 60, 70, 80]
[10, 20, 30, 40] and [50, 60, 70, 80]
(10,20),(30,40)(50,60),(70,80)
10 20 30 40; 50 60 70 80
a: [10, 20, 30, 40]; b: [50, 60, 70, 80]
- **a**: (10, 20, 30, 40), **b**: (50, 60, 70, 80)
<ref>a</ref><box>(10,20),(30,40)</box><ref>b</ref><box>(50,60),(70,80)</box>
x1=10, y1=20, x2=30, y2=40 and x1=50, y1=60, x2=70, y2=80
""".strip().split("\n")

NONE = [
    "[]",
    "```json\n[]\n```",
    '{"objects": []}',
    '{"bbox_2d": null, "label": "cat"}',
    "None.",
    "There are no cats in the image.",
    "No objects found",
    "No.",
    "N/A",
    "0 objects",
    "Not visible.",
    "There isn't any cat in the image.",
    "I cannot see a cat.",
    "The cat is not visible in the image.",
    "没有",
    "图中没有猫。",
    "未检测到目标",
    "猫は写っていません。猫はありません",
    "없음",
    "고양이가 없습니다.",
    "ไม่มี",
]

UNCLEAR = {
    "nowhere": "no box in the answer",
    "": "no box in the answer",
    "There is one cat.": "no box in the answer",
    "10 20 30": "no four numbers",
    "10 20 30 40 50": "no four numbers",
    "0 0.5 0.5 0.2 0.2": "no four numbers",
    "2 cats: 10 20 30 40": "no four numbers",
    "10-20-30-40": "no four numbers",
    "(10, 20)": "no four numbers",
    "(10, 20), (30, 40), (50, 60)": "no four numbers",
    '{"bbox_2d": [1, 2, 3]}': "no four numbers",
    '{"bbox_2d": ["a", 2, 3, true]}': "no four numbers",
    '["cat"]': "no box in the answer",
    '{"bbox_2d": [1e999, 2, 3, 4]}': "a coordinate is not finite",
    '{"bbox_2d": [NaN, 2, 3, 4]}': "a coordinate is not finite",
    "[" * 5000: "nested too deeply",
    '{"a":' * 3000: "nested too deeply",
}


def parse(text: str) -> Any:
    return grounding.parse(grounding.Config(), text)


@pytest.mark.parametrize("text", ONE)
def test_one_box(text: str) -> None:
    (found,) = parse(text)
    assert found.box == A
    assert found.label in (None, "ball", "the ball")


@pytest.mark.parametrize("text", SEVERAL)
def test_several_boxes(text: str) -> None:
    found = parse(text)
    assert [one.box for one in found] == [A, B]
    labels = [one.label for one in found]
    assert labels in (["a", "b"], ["a", None], [None, None])
    assert (labels != [None, None]) == any(sign in text for sign in ('"a"', ">a<", "a: [", "a**:")), "no label is lost"


@pytest.mark.parametrize("text", NONE)
def test_answers_that_there_is_nothing(text: str) -> None:
    assert parse(text) == []


@pytest.mark.parametrize("text", UNCLEAR, ids=lambda text: text[:30])
def test_what_is_unclear_is_unparsed(text: str) -> None:
    answer = parse(text)
    assert isinstance(answer, Unparsed)
    assert UNCLEAR[text] in answer.reason


@pytest.mark.parametrize(
    ("text", "box", "scale", "label"),
    [
        ('{"box_2d": [20, 10, 40, 30]}', A, (1000, 1000), None),
        ("[0.1, 0.2, 0.3, 0.4]", [0.1, 0.2, 0.3, 0.4], (1, 1), None),
        ("[0, 0, 1, 1]", [0, 0, 1, 1], None, None),
        ("10% 20% 30% 40%", A, (100, 100), None),
        ("<loc0020><loc0010><loc0040><loc0030> red ball", A, (1024, 1024), "red ball"),
        ("red ball<loc_10><loc_20><loc_30><loc_40>", A, (1000, 1000), "red ball"),
        ("<p>ball</p> {<10><20><30><40>}", A, (100, 100), "ball"),
        (
            "<phrase>ball</phrase><object><patch_index_0033><patch_index_0067></object>",
            [1.5 / 32, 1.5 / 32, 3.5 / 32, 2.5 / 32],
            (1, 1),
            "ball",
        ),
        ("<patch_index_0033><patch_index_0035>", [1.5 / 32, 1 / 32, 3.5 / 32, 2 / 32], (1, 1), None),
    ],
)
def test_forms_with_a_scale_of_their_own(text: str, box: list[float], scale: Any, label: str | None) -> None:
    (found,) = parse(text)
    assert found.box == pytest.approx(box)
    assert (found.scale, found.label) == (scale, label)


def test_location_tokens_of_several_objects() -> None:
    pali = parse("<loc0000><loc0000><loc0001><loc0002> cat ; <loc0003><loc0004><loc0005><loc0006> dog")
    assert [(one.box, one.label) for one in pali] == [([0, 0, 2, 1], "cat"), ([4, 3, 6, 5], "dog")]
    florence = parse(
        "</s><s>cat<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><loc_7><loc_8>dog<loc_1><loc_2><loc_3><loc_4>"
    )
    assert [one.label for one in florence] == ["cat", "cat", "dog"]


def test_scores_are_read() -> None:
    for text in ('{"bbox": [10, 20, 30, 40], "score": 0.5}', "[[10, 20, 30, 40, 0.5]]"):
        assert parse(text)[0].score == 0.5
    both = parse('{"bboxes": [[10, 20, 30, 40], [50, 60, 70, 80]], "labels": ["a", "b"], "scores": [0.5, 0.25]}')
    assert [one.score for one in both] == [0.5, 0.25]


@pytest.mark.parametrize(
    "part", ["(", "[{", '{"a":', "1 ", "a", "<ref>", "x1=", "[1, 2, 3, 4], ", "<loc0001>", "(1,2),"]
)
def test_long_answers_take_as_long_as_they_are(part: str) -> None:
    assert growth(parse, part) < LINEAR


@given(st.text(st.sampled_from("[]{}()<>\"':,;. x1y2boxlabe0139\n"), max_size=60))
def test_any_text_has_an_answer(text: str) -> None:
    answer = parse(text)
    assert isinstance(answer, Unparsed) or all(one.box[0] <= one.box[2] and one.box[1] <= one.box[3] for one in answer)
