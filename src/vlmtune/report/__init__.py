"""Comparisons as text, Markdown or a self-contained HTML page, and model cards. Needs neither a model nor torch.

`text` and `markdown` render text. `html` fills the page's template from `rows`, `charts` (drawn with `svg`) and
`provenance`; `templates` renders any page with its style and script inlined.
"""

from pydantic import PositiveInt

from vlmtune.registry import BaseConfig


class ReportConfig(BaseConfig):
    """What the page shows."""

    examples: PositiveInt = 200
    """Rows of each kind (largest gains, largest losses, random) shown with their image. Failed rows always have theirs;
    all other rows are shown without."""
