"""The verb that finds labels which are probably wrong."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from vlmtune.cli.arguments import ConfigArg, Offline, Sets, load_config, set_offline


def suspects(
    config: ConfigArg,
    adapter: Annotated[
        Path | None, typer.Option(help="Adapter folder whose training is read; by default the one the config trains.")
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many labels.")] = 50,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.html", help="The page; by default in output.dir.")
    ] = None,
    sets: Sets = None,
    offline: Offline = False,
) -> None:
    """Train rows whose label is probably wrong, by how hard they were to learn: as JSON lines and as a page."""
    from vlmtune.checks.suspects.page import render, shown
    from vlmtune.checks.suspects.ranking import read_visits
    from vlmtune.checks.suspects.ranking import suspects as rank
    from vlmtune.files import write_atomic
    from vlmtune.pipeline.session import Session

    set_offline(offline)
    session = Session(load_config(config, sets).config)
    visits = read_visits(adapter or session.seeds[0].adapter_path())
    rows = session.rows("train")
    found = shown(rank(visits, count), rows)
    page = output or session.config.output.path("suspects.html")
    write_atomic(page, render(found, len(rows), 1 + max(visit["epoch"] for visit in visits)))
    for one in found:
        print(json.dumps(one.to_json(), ensure_ascii=False))
    print(f"page: {page}", file=sys.stderr)
