"""The verbs that look before anything runs: doctor, and config check, show, schema, diff."""

import json

from vlmtune.cli.arguments import AsJson, ConfigArg, Sets, load_config


def doctor(as_json: AsJson = False) -> None:
    """Python, torch, GPU, disk, credentials and optional parts of this machine."""
    from vlmtune.checks.doctor import examine, render

    found = examine()
    print(json.dumps(found, indent=2) if as_json else render(found))


def config_check(config: ConfigArg, sets: Sets = None) -> None:
    """Validate a config; all mistakes at once, with their positions."""
    load_config(config, sets)
    print(f"{config}: no mistakes (the data and the model were not looked at)")


def config_show(config: ConfigArg, sets: Sets = None, as_json: AsJson = False) -> None:
    """The resolved config, every value with where it comes from."""
    from vlmtune.config import config_json, show

    loaded = load_config(config, sets)
    print(json.dumps(config_json(loaded.config), indent=2) if as_json else show(loaded))


def config_schema() -> None:
    """JSON Schema of a config, for editors."""
    from vlmtune.config import json_schema

    print(json.dumps(json_schema(), indent=2))


def config_diff(a: ConfigArg, b: ConfigArg) -> None:
    """What differs between two resolved configs."""
    from vlmtune.config import diff

    for path, before, after in diff(load_config(a, None).config, load_config(b, None).config):
        print(f"{path}: {json.dumps(before)} -> {json.dumps(after)}")
