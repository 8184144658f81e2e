"""Renders Jinja templates to self-contained pages: style and script inlined, all text escaped, nothing else allowed.

Texts hold no control characters and no secrets, and are shortened if they are very long.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmtune.terminal import cleaner, shortened

FOLDER = Path(__file__).parent

LONGEST = 5_000
"""Most characters of a text outside the data of a script."""


def render(
    template: str,
    folders: Sequence[Path],
    styles: Sequence[Path] = (),
    scripts: Sequence[Path] = (),
    filters: Mapping[str, Callable[..., Any]] | None = None,
    **values: Any,
) -> str:
    """Render a page as HTML; all `values` are escaped and `safe`, those longer than `LONGEST` shortened.

    Args:
        template: name of a Jinja template, looked up in `folders`, then among the report's own.
        folders: further folders with templates.
        styles: CSS files, placed after the report's own.
        scripts: JavaScript files, in their order; the template gets them as `script` and `script_hash`.
        filters: of the template, by name.
        values: of the template, in addition to `style` and `style_hash`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader([*folders, FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_readable(cleaner()),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"svg": lambda figure: Markup(figure.svg), **(filters or {})}
    style, script = (_joined(files) for files in ((FOLDER / "page.css", *styles), scripts))
    return environment.get_template(template).render(
        style=Markup(style), style_hash=_hash(style), script=Markup(script), script_hash=_hash(script), **values
    )


def _readable(safe: Callable[[str], str]) -> Callable[[Any], Any]:
    """Values as a template prints them; markup, which a template made of printed values, stays as it is."""
    return lambda value: (
        value if not isinstance(value, str) or hasattr(value, "__html__") else safe(shortened(value, LONGEST))
    )


def _joined(files: Sequence[Path]) -> str:
    return "".join(file.read_text(encoding="utf-8") for file in files)


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
