"""A comparison as text, Markdown or one self-contained page. A pure function of the comparison: no model, no torch.

`text` and `markdown` are words alone. `page` puts the page together: `rows` and `payload` say what it carries of each
row, `charts`, `changes` and `curves` draw, `provenance` lists how it was made; style and script lie beside them.
"""

from pydantic import PositiveInt

from vlmtune.registry import Part


class ReportConfig(Part):
    """What the page shows."""

    examples: PositiveInt = 200
    """Rows shown with their picture, of each kind: largest gains, largest losses, drawn at random. Failed rows always
    are, and all other rows without one."""
