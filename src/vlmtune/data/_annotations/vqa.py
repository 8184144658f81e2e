"""VQA's pairs of files: questions, and annotations with ten answers each. https://visualqa.org/download.html"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmtune.data._annotations.folder import Folder, Row, entries, read_json, text_of
from vlmtune.errors import DataError


def read(file: Path, folder: Folder) -> Iterator[Row]:
    """One row per question, in the order of the file; without a file of annotations the answers are unknown."""
    value, name = read_json(file), folder.name(file)
    questions = entries(value, "questions", file, "VQA's files of questions")
    answers = _answers(file)
    subset = str(value.get("data_subtype", ""))
    seen = set()
    for number, question in enumerate(questions):
        question_id = text_of(question, "question_id", f"{name}, question {number}")
        where = f"{name}, question {question_id}"
        if question_id in seen:
            raise DataError(f"{where}: two questions have this id; repair the file")
        seen.add(question_id)
        if answers is not None and question_id not in answers:
            yield Row(where=where, problem=f"{where}: no annotation with this question_id in {_partner(file)}")
            continue
        try:
            row = _row(question, question_id, subset, where, folder)
            if answers is not None:
                row |= _answered(answers[question_id], where)
        except DataError as error:
            row = Row(where=where, problem=str(error))
        yield row
    if answers is not None and (unknown := next((each for each in answers if each not in seen), None)):
        raise DataError(f"{_partner(file)}: question_id {unknown} is not among the questions of {file}")


def _row(question: dict[str, Any], question_id: str, subset: str, where: str, folder: Folder) -> Row:
    row = Row(where=where, id=question_id, question=text_of(question, "question", where))
    image_id = question.get("image_id")
    if isinstance(question.get("image"), str):
        row["image"] = folder.image(question["image"])
    elif isinstance(image_id, int):
        found = folder.image_with_number(image_id, subset)
        if found is None:
            raise DataError(
                f"{where}: no image in {folder.root} has a name that ends with {image_id:012d}"
                f"{f' in or below a folder {subset}' if subset else ''}, or several have; put the images there, or set "
                f"dataset.image_path to a template such as {subset or 'images'}/COCO_{subset}_{{file}}.jpg"
            )
        row["image"] = found
    else:
        row["image"] = folder.image(text_of(question, "image_id", where))
    return row


def _answered(annotation: dict[str, Any], where: str) -> Row:
    given = annotation.get("answers", annotation.get("multiple_choice_answer"))
    listed = given if isinstance(given, list) else [given]
    texts = [each.get("answer") if isinstance(each, dict) else each for each in listed]
    if not all(isinstance(each, str) for each in texts):
        raise DataError(f"{where}: answers must be texts, or objects with an answer (got {given!r:.60})")
    row = Row(where=where, references=[str(each) for each in texts])
    kind = annotation.get("answer_type")
    return Row(**row, kind=kind) if isinstance(kind, str) else row


def _answers(file: Path) -> dict[str, dict[str, Any]] | None:
    """The annotation of every question by its id; None without a file of annotations."""
    partner = _partner(file)
    if partner is None:
        return None
    annotations = entries(read_json(partner), "annotations", partner, "VQA's files of annotations")
    return {text_of(each, "question_id", f"{partner.name}, annotation {n}"): each for n, each in enumerate(annotations)}


def _partner(file: Path) -> Path | None:
    """The file of annotations beside a file of questions: same words in its name except for these two.

    Of v2_OpenEnded_mscoco_train2014_questions.json it is v2_mscoco_train2014_annotations.json.
    """

    def words(name: str) -> set[str]:
        parts = set(re.split(r"[\W_]+", name.lower()))
        return parts - {"openended", "multiplechoice", "questions", "question", "annotations", "annotation"}

    named = [each for each in sorted(file.parent.glob("*.json")) if "annotation" in each.name.lower()]
    found = [each for each in named if words(each.name) == words(file.name)]
    if len(found) > 1:
        listed = " and ".join(each.name for each in found)
        raise DataError(f"{file}: {listed} could both hold its answers; move one of them elsewhere")
    return found[0] if found else None
