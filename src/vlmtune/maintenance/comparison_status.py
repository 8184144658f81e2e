"""The comparison in a run folder: found by what it says of itself, and whether it is about what lies beside it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmtune.errors import IntegrityError
from vlmtune.files import os_errors_named, read_json
from vlmtune.run_folder import hash_adapter, is_adapter

_VERDICT = 400
"""A comparison has its verdict in its first bytes."""

_SHAPE = {"schema_version": int, "status": str, "verdict": str, "metrics": list, "warnings": list, "settings": dict}
_MOCK = "made with USE_MOCK"
"""How the warning begins that a comparison of mock answers carries."""


def comparisons(root: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The comparisons in a folder, those of the config's own rows first, then the shortest name; and what is torn.

    Each is without its examples, and has its `file`.
    """
    found, problems = [], []
    for file in sorted(path for path in root.glob("*.json") if path.is_file()):
        with os_errors_named(file), file.open("rb") as stream:
            begins = stream.read(_VERDICT)
        if b'"verdict"' not in begins:
            continue
        try:
            plain = read_json(file)
        except IntegrityError as error:
            problems.append(str(error))
            continue
        if _is_comparison(plain):
            found.append({key: value for key, value in plain.items() if key != "examples"} | {"file": file.name})
    return sorted(found, key=lambda one: (one.get("set") is not None, len(one["file"]), one["file"])), problems


def _is_comparison(plain: Mapping[str, Any]) -> bool:
    """Whether all is there, and of its kind, that is read from it."""
    shaped = all(isinstance(plain.get(key), kind) for key, kind in _SHAPE.items())
    return shaped and all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) and {"a", "b", "delta"} <= entry.keys()
        for entry in plain["metrics"]
    )


def is_mock(file: Path) -> bool:
    """Whether scores, a comparison or a page say of themselves that the stand-in made what they are about."""
    if file.suffix in (".html", ".htm"):
        page = file.read_bytes()
        return b"Content-Security-Policy" in page[:2_000] and _MOCK.encode() in page
    if file.suffix != ".json":
        return False
    try:
        plain = read_json(file)
    except IntegrityError:
        return False
    if _is_comparison(plain):
        return plain.get("mock") is True or any(str(warning).startswith(_MOCK) for warning in plain["warnings"])
    return "schema_version" in plain and plain.get("mock") is True


def stale(
    comparison: Mapping[str, Any], file: Path, answers: Mapping[Path, Mapping[str, Any]], adapters: Sequence[Path]
) -> str | None:
    """Why a comparison is not about the answers or the adapter beside it; None where it is.

    An adapter is hashed only where something in its folder changed after the comparison was written.

    Args:
        comparison: to judge.
        file: where it lies.
        answers: origins of the tuned prediction files, by file.
        adapters: folders.
    """
    b = comparison["settings"].get("b")
    compared = b.get("adapter") if isinstance(b, dict) else None
    if compared is None:
        return None
    sides = comparison.get("seeds")
    names = sides.get("b") if isinstance(sides, dict) else None
    own = [(path, origin) for path, origin in answers.items() if isinstance(names, list) and path.stem in names[:1]]
    for path, origin in own:
        if origin.get("adapter") != compared:
            return f"{path.name} is by another adapter"
    with os_errors_named(file):
        written = file.stat().st_mtime_ns
        # Of several seeds the settings are the first one's: its adapter must be among them.
        if adapters and any(_changed(adapter) > written for adapter in adapters) and compared not in _hashes(adapters):
            return f"{', '.join(adapter.name for adapter in adapters)} is another adapter"
    return None


def _changed(folder: Path) -> int:
    """When something in a folder, or its own name, was changed last, in ns; no copy and no `touch` sets that back."""
    return max(path.stat().st_ctime_ns for path in (folder, *folder.iterdir()))


def _hashes(adapters: Sequence[Path]) -> Iterator[str]:
    for adapter in adapters:
        if is_adapter(adapter):
            yield hash_adapter(adapter)


def left_over(main: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    """Comparisons of further sets that the main one does not name: the config had them once."""
    also = main.get("also")
    known = {one.get("name") for one in also if isinstance(one, dict)} if isinstance(also, list) else set()
    return [
        f"{one['file']} is about the set {one['set']}, which {main['file']} does not name"
        for one in others
        if one.get("set") is not None and one["set"] not in known
    ]
