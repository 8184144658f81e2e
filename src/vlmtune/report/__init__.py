"""A comparison as text, Markdown or one self-contained page; the model card of an adapter. Needs no model and no torch.

`text` and `markdown` are words alone. `html` fills the page's template from `rows`, `charts` (drawn with `svg`) and
`provenance`; `templates` renders any page with its style and script inside.
"""

from pydantic import PositiveInt

from vlmtune.registry import BaseConfig


class ReportConfig(BaseConfig):
    """What the page shows."""

    examples: PositiveInt = 200
    """Rows shown with their image, of each kind: largest gains, largest losses, drawn at random. Failed rows always
    are, and all other rows are shown without one."""
