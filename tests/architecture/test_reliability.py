"""docs/reliability.md names one or more existing tests for every guarantee."""

import ast
import re

from commands import ROOT

PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_every_named_test_exists() -> None:
    named = NAMED.findall(PAGE)
    assert len(named) > 50
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert not name or name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)], (file, name)


def test_every_promise_has_a_test() -> None:
    rows = [line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    promises = [row for row in rows if len(row) == 4][1:]
    assert len(promises) >= 20
    assert [row[0] for row in promises if not NAMED.search(row[2])] == []
