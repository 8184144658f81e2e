"""Rows that belong together: those of one group or picture, and those that others join to them."""

import hashlib
import json
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from vlmtune.data._contents import Texts

GROUP, PICTURE, ALONE = range(3)
"""What a row may have in common with others, and a row that has nothing; what counts more comes first."""


def mark(kind: int, value: Any) -> str:
    """A short text for something that rows have in common; those of a group sort before those of a picture."""
    return f"{kind}{hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()}"


def together(marks: Iterable[Sequence[str]]) -> Texts:
    """The same text for all rows that are joined by a mark, or by way of other rows; different texts for the others.

    Args:
        marks: of every row at least one.

    Returns:
        Of every row the smallest mark of those it is joined to, so that their order does not matter.
    """
    parents, smallest = array("q"), []
    first: dict[str, int] = {}

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for row, those in enumerate(marks):
        parents.append(row)
        smallest.append(min(those))
        for each in those:
            one, other = sorted((root(first.setdefault(each, row)), root(row)))
            parents[other] = one
            smallest[one] = min(smallest[one], smallest[other])
    return Texts(smallest[root(row)] for row in range(len(parents)))
