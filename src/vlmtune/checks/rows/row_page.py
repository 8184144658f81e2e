"""One example as a page: its pictures at the size the model reads them, its tokens, what is learnt."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmtune.checks.rows.page import FOLDER
from vlmtune.files import write_atomic
from vlmtune.images import decode_rgb
from vlmtune.report import sheets
from vlmtune.types import Example


def write(shown: Mapping[str, Any], example: Example, file: Path) -> None:
    """Write the page of an example that `Shown.row` gave; text of rows is only ever text."""
    html = sheets.render(
        "page-of-row.html.jinja",
        [FOLDER],
        styles=[FOLDER / "page.css"],
        shown=shown,
        images=[
            _resized(ref, *picture["resized"]) for ref, picture in zip(example.images, shown["pictures"], strict=True)
        ],
    )
    write_atomic(file, html)


def _resized(ref: Any, width: int, height: int) -> str:
    """A picture as the model reads it, up to the rounding of the last bit, as WebP in base64."""
    from PIL import Image

    buffer = io.BytesIO()
    decode_rgb(ref).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "WEBP", quality=90)
    return base64.b64encode(buffer.getvalue()).decode()
