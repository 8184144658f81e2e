"""Boxes in what vision-language models write: tags, location tokens, JSON in many shapes, and plain numbers.

Models that were never trained on a task answer in the form of their own training. It is read where it is unambiguous,
so that no model loses by its form; everything else is `Unparsed`, with the reason.
"""

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from vlmtune.boxes import NORM1000, LabelledBox, Scale
from vlmtune.tasks._parsing import FENCE, json_values
from vlmtune.types import Unparsed

NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)"
_SEPARATOR = r"(?:\s*[,;]\s*|\s+)"

Order = str
"""What the four numbers of a box are: `xyxy`, `yxyx`, `xywh`, or `cxcywh` with the centre."""

_ORDERS: dict[str, Order] = {
    **dict.fromkeys(("bbox2d", "bbox", "bboxes", "box", "boxes", "boundingbox", "boundingboxes", "bounds"), "xyxy"),
    **dict.fromkeys(("coordinates", "coords", "location", "position", "rect", "rectangle", "region"), "xyxy"),
    **dict.fromkeys(("xyxy", "bboxxyxy", "boxxyxy"), "xyxy"),
    **dict.fromkeys(("box2d", "yxyx"), "yxyx"),
    **dict.fromkeys(("xywh", "bboxxywh", "boxxywh"), "xywh"),
    "cxcywh": "cxcywh",
}
"""Keys that hold boxes, as `_key` spells them. Gemini's and Gemma's `box_2d` is [ymin, xmin, ymax, xmax] of 1000."""

_CORNERS: tuple[tuple[str, Order], ...] = (
    ("x1 y1 x2 y2", "xyxy"),
    ("x0 y0 x1 y1", "xyxy"),
    ("x_min y_min x_max y_max", "xyxy"),
    ("min_x min_y max_x max_y", "xyxy"),
    ("left top right bottom", "xyxy"),
    ("xtl ytl xbr ybr", "xyxy"),
    ("start_x start_y end_x end_y", "xyxy"),
    ("x_center y_center width height", "cxcywh"),
    ("center_x center_y width height", "cxcywh"),
    ("cx cy w h", "cxcywh"),
    ("x y width height", "xywh"),
    ("x y w h", "xywh"),
    ("left top width height", "xywh"),
    ("x_min y_min width height", "xywh"),
)
"""Names of a box's four numbers, and what they are."""

_POINTS = (("topleft", "bottomright"), ("upperleft", "lowerright"), ("start", "end"), ("min", "max"))
_LABELS = ("label", "labels", "name", "class", "classname", "category", "object", "text", "phrase", "ref")
_SCORES = ("score", "scores", "confidence", "confidences", "conf", "probability", "prob")
_WRAPPERS = (
    *("objects", "object", "detections", "detection", "annotations", "instances", "items", "found", "data", "image"),
    *("answer", "answers", "response", "output", "result", "results", "prediction", "predictions"),
)
"""Keys around boxes that do not name what is in them."""

_REF = r"(?:<\|object_ref_start\|>|<\|ref\|>|<ref>|<p>|<phrase>)"
_TAG = re.compile(
    rf"{_REF}(?P<label>(?:(?!{_REF}).)*?)"
    r"(?:<\|object_ref_end\|>|<\|/ref\|>|</ref>|</p>|</phrase>)"
    r"|(?:<\|box_start\|>|<\|det\|>|<box>|<bbox>)(?P<box>.*?)(?:<\|box_end\|>|<\|/det\|>|</box>|</bbox>|$)"
    r"|\{<(?P<percent>\d+><\d+><\d+><\d+)>\}"
    r"|<patch_index_(?P<first>\d+)><patch_index_(?P<last>\d+)>",
    re.DOTALL,
)
_LOCATIONS = re.compile(r"(?:<loc_?\d+>){4}")
_POINT = rf"[\[(]\s*({NUMBER})\s*,?\s*({NUMBER})\s*[\])]"
_QUADRUPLE = re.compile(rf"(?<![\[({{<])[\[({{<]+\s*(?P<four>{NUMBER}%?(?:{_SEPARATOR}{NUMBER}%?){{3}})\s*[\])}}>]")
_KEY_BEFORE = re.compile(r"(\w+)\\?[\"']?\s*[:=]\s*$")
_LINE = re.compile(
    rf"(?:\d{{1,2}}[.)]\s+)?[^\d\n]{{0,60}}?(?:(?P<key>b?box_?2d)\W{{1,4}})?(?P<four>(?<![\w.]){NUMBER}%?(?:{_SEPARATOR}{NUMBER}%?){{3}})[^\d\n]{{0,60}}"
)
_Y_FIRST = re.compile(r"y_?(?:min|[01])\W+x_?(?:min|[01])\W+y_?(?:max|[12])\W+x_?(?:max|[12])", re.IGNORECASE)
_SIZED = re.compile(r"\bx\W{1,4}y\W{1,4}w(?:idth)?\W{1,4}h(?:eight)?\b|\bxywh\b", re.IGNORECASE)
_RANGES = re.compile(
    rf"\bx\b[^\d\n-]{{0,12}}({NUMBER})\s*(?:-|–|~|to|and)\s*({NUMBER})[^\d\n]{{1,20}}"
    rf"\by\b[^\d\n-]{{0,12}}({NUMBER})\s*(?:-|–|~|to|and)\s*({NUMBER})",
    re.IGNORECASE,
)
_NOTHING = re.compile(
    r"no|none|null|nothing|n/a|0 (?:objects?|boxes|instances|matches)|not (?:visible|present|found|detected|there)|"
    r"no (?:such )?(?:object|box|instance|match)(?:es|s)?\b[^\d]*|there (?:is|are)(?: no|n['’]t)\b[^\d]*|"
    r"i (?:cannot|can['’]t|could not|couldn['’]t|do not|don['’]t) (?:see|find|detect|locate)\b[^\d]*|"
    r"[^\d]{1,60}\b(?:is|are) (?:not|n['’]t) (?:visible|present|in the (?:image|picture|photo))\b[^\d]*|"
    r"[^\d，。]{0,8}(?:没有|沒有|未|[無无])[^\d，。]{0,20}|[^\d]{0,30}(?:ありません|いません|見つかりません|見当たりません|なし|ない)|"
    r"[^\d]{0,30}(?:없음|없습니다|없다|않습니다)|ไม่(?:มี|พบ|เห็น)[^\d]*",
    re.IGNORECASE,
)
_LABEL_BEFORE = re.compile(
    r"(?:^|[\n;,.])[\s*•-]*(?:\d{1,2}[.)]\s+)?[\"'*`]*(?P<label>[^\d\W][^:\n;,.\"*`]{0,40}?)[\"'*`]*\s*:\s*$"
)
_NO_LABELS = re.compile(
    r"\b(?:box|boxes|bbox|answer|coordinates?|output|result|location|position|corner|is|are|here)\b", re.IGNORECASE
)
"""Words in front of a colon that introduce boxes rather than name what is in them."""


def find_boxes(text: str) -> list[LabelledBox] | Unparsed:
    """The boxes of an answer, each with its corners in order; an empty list where the answer says that there is none.

    Of several forms in one answer the most explicit is read: tags, location tokens, JSON, then numbers in plain text.
    """
    text = unicodedata.normalize("NFKC", text)  # full-width brackets, commas and digits
    order = "yxyx" if _Y_FIRST.search(text) else "xywh" if _SIZED.search(text) else "xyxy"
    try:
        found = _tagged(text) or _located(text) or _in_json(text, order)
        found = found or _named(text) or _bracketed(text, order) or _from_points(text) or _on_lines(text, order)
        found = found or [_box([float(n) for n in (x1, y1, x2, y2)]) for x1, x2, y1, y2 in _RANGES.findall(text)]
    except RecursionError:
        return Unparsed("nested too deeply")
    if not found and not _says_nothing(text):
        has_number = re.search(r"\d", text) is not None
        return Unparsed("no four numbers that are clearly a box" if has_number else "no box in the answer")
    if not all(math.isfinite(number) for one in found for number in one.box):
        return Unparsed("a coordinate is not finite")
    return _as_fractions([one._replace(box=_sorted(one.box)) for one in found])


def _says_nothing(text: str) -> bool:
    stripped = FENCE.sub(r"\1", text).strip().rstrip(".。!！")
    try:
        return _is_empty(json.loads(stripped))
    except (ValueError, RecursionError):
        return _NOTHING.fullmatch(stripped) is not None


def _is_empty(value: Any) -> bool:
    """Whether a JSON value is made of empty lists and nulls, apart from labels."""
    if isinstance(value, Mapping):
        return all(_is_empty(item) for name, item in value.items() if _key(name) not in _LABELS)
    return value is None or (isinstance(value, list) and all(map(_is_empty, value)))


def _sorted(box: Sequence[float]) -> list[float]:
    """The upper left corner, then the lower right one: models and people also name other pairs of corners."""
    x1, y1, x2, y2 = box
    return [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]


def _as_fractions(boxes: list[LabelledBox]) -> list[LabelledBox]:
    """Numbers from 0 to 1, not all whole, are fractions of the sides, whatever the scale of the model."""
    numbers = [number for one in boxes for number in one.box]
    is_relative = all(0 <= number <= 1 for number in numbers) and any(number % 1 for number in numbers)
    own = all(one.scale in (None, NORM1000) for one in boxes)
    return [one._replace(scale=(1, 1)) for one in boxes] if is_relative and own else boxes


def _box(numbers: Sequence[float], order: Order = "xyxy", **more: Any) -> LabelledBox:
    a, b, c, d = map(float, numbers)
    if order == "yxyx":
        return LabelledBox([b, a, d, c], **more)
    if order == "xywh":
        return LabelledBox([a, b, a + c, b + d], **more)
    if order == "cxcywh":
        return LabelledBox([a - c / 2, b - d / 2, a + c / 2, b + d / 2], **more)
    return LabelledBox([a, b, c, d], **more)


def _key(name: Any) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).casefold())


def _scale(order: Order) -> Scale | None:
    return NORM1000 if order == "yxyx" else None


# Tags and tokens


def _tagged(text: str) -> list[LabelledBox]:
    """`<ref>cat</ref><box>(1,2),(3,4)</box>` of Qwen-VL, InternVL and DeepSeek-VL2; MiniGPT-v2's and Kosmos-2's."""
    found: list[LabelledBox] = []
    label = None
    for tag in _TAG.finditer(text):
        if tag["label"] is not None:
            label = tag["label"].strip() or None
        elif tag["percent"] is not None:
            found.append(_box([float(n) for n in tag["percent"].split("><")], label=label, scale=(100, 100)))
        elif tag["first"] is not None:
            found.append(LabelledBox(_patches(int(tag["first"]), int(tag["last"])), label, None, (1, 1)))
        else:
            numbers = [float(number) for number in re.findall(NUMBER, tag["box"])]
            if len(numbers) % 4 == 0:
                found += [_box(numbers[n : n + 4], label=label) for n in range(0, len(numbers), 4)]
    return found


def _patches(first: int, last: int, side: int = 32) -> list[float]:
    """Kosmos-2's box from two cells of a grid: between their centres; a whole cell where they are in line."""
    (y1, x1), (y2, x2) = divmod(first, side), divmod(last, side)
    left, right = (x1, x2 + 1) if x1 == x2 else (x1 + 0.5, x2 + 0.5)
    top, bottom = (y1, y2 + 1) if y1 == y2 else (y1 + 0.5, y2 + 0.5)
    return [left / side, top / side, right / side, bottom / side]


def _located(text: str) -> list[LabelledBox]:
    """Location tokens: PaliGemma's `<loc0123>` are y, x, y, x of 1024, Florence-2's `<loc_123>` x, y, x, y of 1000.

    The label is behind PaliGemma's tokens and in front of Florence's, which does not repeat it for further boxes.
    """
    found: list[LabelledBox] = []
    tokens = list(_LOCATIONS.finditer(text))
    starts, ends = [0, *(match.end() for match in tokens)], [*(match.start() for match in tokens), len(text)]
    between = [text[start:end] for start, end in zip(starts, ends, strict=True)]
    for n, match in enumerate(tokens):
        numbers = [float(number) for number in re.findall(r"\d+", match[0])]
        is_florence = "_" in match[0]
        label = re.sub(r"<[^<>]*>|;", " ", between[n if is_florence else n + 1]).strip() or None
        if label is None and is_florence and found:
            label = found[-1].label
        scale: Scale = NORM1000 if is_florence else (1024, 1024)
        found.append(_box(numbers, "xyxy" if is_florence else "yxyx", label=label, scale=scale))
    return found


# JSON


def _in_json(text: str, order: Order) -> list[LabelledBox]:
    fenced = "\n".join(FENCE.findall(text))
    for part in (fenced, text):
        found = []
        for value, start in json_values(part):
            label = _label_before(part, start) if isinstance(value, list) else None
            found += _boxes_in(value, label, _order_of_key(part, start, order))
        if found:
            return found
    return []


def _boxes_in(value: Any, label: str | None, order: Order) -> list[LabelledBox]:
    """Boxes in a JSON value: four numbers, corners, an object with a box, or lists of any of these."""
    if isinstance(value, Mapping):
        return _in_object(value, label, order)
    if isinstance(value, str):
        written = re.fullmatch(rf"\W*{NUMBER}(?:{_SEPARATOR}{NUMBER}){{3}}\W*", value)
        value = re.findall(NUMBER, value) if written else []
    if not isinstance(value, list | tuple):
        return []
    if fours := _fours(value, label, order):
        return fours
    if corners := _around(value):
        return [_box(corners, label=label)]
    return [box for item in value for box in _boxes_in(item, label, order)]


def _fours(values: Sequence[Any], label: str | None, order: Order) -> list[LabelledBox]:
    """Boxes in a flat list: four numbers, perhaps with a label or a score behind them, or four for each box."""
    texts = [item.strip() for item in values if isinstance(item, str) and _number(item) is None]
    numbers = [number for item in values if (number := _number(item)) is not None]
    if not numbers or len(texts) > 1 or len(numbers) + len(texts) < len(values):
        return []
    if len(numbers) == 5 and 0 <= numbers[4] <= 1 < max(numbers[:4]):
        return [_box(numbers[:4], order, label=texts[0] if texts else label, score=numbers[4], scale=_scale(order))]
    if len(numbers) % 4:
        return []
    label = texts[0] if texts and len(numbers) == 4 else label
    fours = [numbers[n : n + 4] for n in range(0, len(numbers), 4)]
    return [_box(four, order, label=label, scale=_scale(order)) for four in fours]


def _number(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    written = re.fullmatch(rf"\s*({NUMBER})\s*(?:px)?\s*", value) if isinstance(value, str) else None
    return float(written[1]) if written else None


def _around(points: Sequence[Any]) -> list[float]:
    """The box with two opposite corners [[x, y], [x, y]], or around the four corners of a polygon."""
    pairs = [_pair(point) for point in points]
    known = [pair for pair in pairs if pair is not None]
    if len(known) != len(pairs) or len(known) not in (2, 4):
        return []
    xs, ys = zip(*known, strict=True)
    return [min(xs), min(ys), max(xs), max(ys)]


def _pair(point: Any) -> tuple[float, float] | None:
    if isinstance(point, Mapping):
        point = [point.get("x"), point.get("y")]
    if not isinstance(point, list | tuple) or len(point) != 2:
        return None
    x, y = map(_number, point)
    return None if x is None or y is None else (x, y)


def _in_object(value: Mapping[Any, Any], label: str | None, order: Order) -> list[LabelledBox]:
    """Boxes of an object: its corners by name, a key that holds boxes, or keys that name what is in them."""
    keys = {_key(name): item for name, item in value.items()}
    label = next((keys[key].strip() for key in _LABELS if isinstance(keys.get(key), str)), label) or None
    score = next((number for key in _SCORES if (number := _number(keys.get(key))) is not None), None)
    for names, meaning in _CORNERS:
        numbers = [_number(keys.get(_key(name))) for name in names.split()]
        known = [number for number in numbers if number is not None]
        if len(known) == 4:
            return [_box(known, meaning, label=label, score=score)]
    if sized := _around_centre(keys):
        return [_box(sized, "cxcywh", label=label, score=score)]
    for ends in _POINTS:
        if corners := _around([keys.get(name) for name in ends]):
            return [_box(corners, label=label, score=score)]
    for key, own in _ORDERS.items():
        if found := _boxes_in(keys.get(key), label, order if own == "xyxy" else own):
            return _with_lists([one._replace(score=one.score if score is None else score) for one in found], keys)
    # The key of a box names it: {"cat": [1, 2, 3, 4]}.
    pairs = [(label if _key(name) in _WRAPPERS else str(name), item) for name, item in value.items()]
    return [
        box for name, item in pairs if isinstance(item, list | tuple | dict) for box in _boxes_in(item, name, order)
    ]


def _around_centre(keys: Mapping[str, Any]) -> list[float]:
    """{"center": [x, y], "size": [width, height]} as four numbers, or with `width` and `height`."""
    middle = next((pair for key in ("center", "centre") if (pair := _pair(keys.get(key)))), None)
    size = _pair(keys.get("size")) or _pair([keys.get("width"), keys.get("height")])
    return [*middle, *size] if middle and size else []


def _with_lists(boxes: list[LabelledBox], keys: Mapping[str, Any]) -> list[LabelledBox]:
    """Boxes with the labels and scores of parallel lists: {"boxes": […], "labels": […], "scores": […]}."""
    for names, field, is_right in ((_LABELS, "label", _is_text), (_SCORES, "score", _is_number)):
        for values in (keys.get(name) for name in names):
            if isinstance(values, list) and len(values) == len(boxes) and all(map(is_right, values)):
                boxes = [box._replace(**{field: value}) for box, value in zip(boxes, values, strict=True)]
    return boxes


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# Plain text


def _four(written: str, order: Order) -> LabelledBox:
    scale: Scale | None = (100, 100) if written.count("%") == 4 else _scale(order)
    return _box([float(number) for number in re.findall(NUMBER, written)], order, scale=scale)


def _named(text: str) -> list[LabelledBox]:
    """`x1=1, y1=2, x2=3, y2=4`, also in JSON that is not valid."""
    for names, order in _CORNERS:
        columns = []
        for name in names.split():
            spelled = rf"(?<![a-z]){name.replace('_', '[ _-]?')}[\"'*]*\s*(?:[:=]|is)\s*[\"'*]*({NUMBER})"
            columns.append(re.findall(spelled, text, re.IGNORECASE))
        if columns[0] and all(len(column) == len(columns[0]) for column in columns):
            return [_box([float(n) for n in four], order) for four in zip(*columns, strict=True)]
    return []


def _bracketed(text: str, order: Order) -> list[LabelledBox]:
    """`(1, 2, 3, 4)`, `[1 2 3 4]`, also after a key of JSON that is not valid or was cut off."""
    found = []
    for match in _QUADRUPLE.finditer(text):
        four = _four(match["four"], _order_of_key(text, match.start(), order))
        found.append(four._replace(label=_label_before(text, match.start())))
    return found


def _label_before(text: str, position: int) -> str | None:
    """What stands before a colon in front of a box, unless it introduces boxes: "1. cat: (1, 2, 3, 4)"."""
    named = _LABEL_BEFORE.search(text, max(0, position - 60), position)
    if named is None or _NO_LABELS.search(named["label"]):
        return None
    label = named["label"].strip()
    return None if _key(label) in (*_ORDERS, *_WRAPPERS) else label


def _order_of_key(text: str, position: int, order: Order) -> Order:
    """What a key in front of a bracket says of the order of its numbers, in JSON that is not valid."""
    key = _KEY_BEFORE.search(text, max(0, position - 40), position)
    own = _ORDERS.get(_key(key[1]), "xyxy") if key else "xyxy"
    return order if own == "xyxy" else own


def _from_points(text: str) -> list[LabelledBox]:
    """Pairs of points: `(1, 2), (3, 4)`, `from (1, 2) to (3, 4)`; four that are the corners of one box."""
    points = [(float(x), float(y)) for x, y in re.findall(_POINT, text)]
    if len(points) == 4 and all(len(set(axis)) == 2 for axis in zip(*points, strict=True)):
        return [_box(_around(points))]
    if len(points) % 2:
        return []
    return [_box([*points[n], *points[n + 1]]) for n in range(0, len(points), 2)]


def _on_lines(text: str, order: Order) -> list[LabelledBox]:
    """Lines of four numbers, with at most some words around them, where no other line has a number."""
    for separator in (r"\n", r"[\n;]"):
        lines = [line.strip() for line in re.split(separator, text)]
        matches = [_LINE.fullmatch(line) for line in lines if re.search(r"\d", line)]
        found = [_four(match["four"], "yxyx" if match["key"] == "box_2d" else order) for match in matches if match]
        if len(found) == len(matches):
            return found
    return []
