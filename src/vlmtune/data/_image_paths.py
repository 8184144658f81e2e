"""`dataset.image_path`: the path of an image as a template of the row's columns."""

import string
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from vlmtune.data._records import names_text
from vlmtune.errors import DataError

FILE = "file"
"""The field that stands for the value of the image column, unless a column has this name."""


PARTS = ("name", "stem")
"""Formats that take a part of a path: `{file:name}` is the name of the file without its folders."""


def template_fields(template: str) -> list[str]:
    """The columns in a template.

    Raises:
        ValueError: it is none; says what it may contain.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"must be a path with columns in braces, such as images/{{file}} ({error})") from None
    fields = [name for _, name, _, _ in parts if name is not None]
    if any(conversion or "{" in (spec or "") for _, _, spec, conversion in parts) or not all(fields):
        raise ValueError(f"must name a column in each pair of braces, as {{file}} or {{id:012d}} do (got {template!r})")
    return fields


def _checked(template: str) -> str:
    try:
        fields = template_fields(template)
    except ValueError as error:
        raise PydanticCustomError("image_path", "{reason}", {"reason": str(error)}) from None
    return template if fields else f"{template.rstrip('/')}/{{{FILE}}}"


ImagePath = Annotated[str, AfterValidator(_checked)]
"""A template; a path without braces is the folder of the images."""


def image_file(template: str | None, value: Any, columns: Mapping[str, Any], at: str) -> Any:
    """The path of an image by a template, whose `{file}` is the value of the image column; the value without one.

    Raises:
        DataError: as `fill`.
    """
    return value if template is None else fill(template, {FILE: value, **columns}, at)


def fill(template: str, columns: Mapping[str, Any], at: str) -> str:
    """The path of an image.

    Args:
        template: whose fields are names of columns.
        columns: the values.
        at: where they are, for messages.

    Raises:
        DataError: a column is missing or empty, or a value does not fit its format.
    """
    path = []
    for literal, name, spec, _ in string.Formatter().parse(template):
        path.append(literal)
        if name is None:
            continue
        value = columns.get(name)
        if not isinstance(value, str | int | float) or isinstance(value, bool) or value == "":
            raise DataError(
                f"{at}: dataset.image_path needs a text or number in column {name!r} (got {value!r:.40}); there are: "
                f"{names_text(columns, name)}"
            )
        form = spec or ""
        if form in PARTS:
            path.append(getattr(PurePosixPath(str(value).replace("\\", "/")), form))
            continue
        try:
            path.append(format(int(value) if form.endswith("d") else value, form))
        except (ValueError, TypeError, OverflowError) as error:
            raise DataError(f"{at}: dataset.image_path cannot write {value!r:.40} as {form!r}: {error}") from None
    return "".join(path)
