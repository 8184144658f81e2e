"""A comparison as text, JSON or one self-contained page. A pure function of the comparison: no model, no torch."""

from pydantic import PositiveInt

from vlmtune.plugs import Part


class ReportConfig(Part):
    """What the page shows."""

    examples: PositiveInt = 60
    """Examples shown with their picture."""
