"""Results as they stand on stdout, and what to do next on stderr."""

import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmtune.config import Config
    from vlmtune.scoring.comparison import Comparison
    from vlmtune.scoring.score import Score


def print_comparison(comparison: "Comparison", as_json: bool = False) -> None:
    """The comparison on stdout."""
    from vlmtune.report import text

    plain = comparison.to_json(examples=False)
    print(json.dumps(plain, ensure_ascii=False) if as_json else text.render(plain))


def print_score(score: "Score | None", as_json: bool = False) -> None:
    """The score on stdout; None is that of rows without labels."""
    plain: dict[str, Any] = score.to_json() if score is not None else {"schema_version": 1, "metrics": {}}
    if as_json:
        print(json.dumps(plain, ensure_ascii=False))
        return
    if score is None:
        print("answered; there are no labels to score them by")
        return
    for name, value in plain["metrics"].items():
        ends = plain["intervals"].get(name)
        interval = f"  (95% CI {ends[0]:.4f} to {ends[1]:.4f}, Wilson)" if ends else ""
        print(f"{name:<18} {'-' if value is None else format(value, '.4f')}{interval}")
    print("rows: " + ", ".join(f"{count} {what}" for what, count in plain["rows"].items()))


def say_next(verb: str, config: str, sets: list[str] | None, more: str = "") -> None:
    """The command that goes on from here, with the same --set."""
    words = ["vlmtune", verb, config, *(word for pair in sets or () for word in ("--set", pair))]
    print(f"next: {shlex.join(words)} {more}".rstrip(), file=sys.stderr)


def say_where(config: "Config") -> None:
    """Where the page is."""
    print(f"next: open {config.output.path(config.output.report)}", file=sys.stderr)
