"""The comparisons in a run folder, recognised by content, and whether they still match the artifacts there."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired

from pydantic import FiniteFloat, PositiveFloat
from typing_extensions import TypedDict

from vlmtune.errors import IntegrityError
from vlmtune.files import read_json, translate_os_errors
from vlmtune.json_values import mismatch
from vlmtune.run_folder import hash_adapter, is_adapter
from vlmtune.run_layout import is_sidecar

_VERDICT = 400
"""A comparison has its verdict in this many first bytes, so that other large JSON files are not parsed."""


class _Metric(TypedDict):
    name: str
    a: FiniteFloat
    b: FiniteFloat
    delta: FiniteFloat
    scale: PositiveFloat


class _Settings(TypedDict, total=False):
    a: dict[str, Any]
    b: dict[str, Any]


class _Comparison(TypedDict):
    """Types of what is read from a comparison."""

    schema_version: int
    status: str
    verdict: str
    metrics: list[_Metric]
    warnings: list[str]
    settings: _Settings
    seeds: NotRequired[dict[str, Any] | None]
    evaluation_set: NotRequired[str | None]


_MOCK = "made with USE_MOCK"
"""Beginning of the warning in every comparison of mock answers."""


def comparisons(root: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Comparisons in a folder, without their examples and with their `file`, and errors of files that cannot be read.

    Comparisons of the config's own rows come before those of additional evaluation sets, then shorter names first.
    """
    parsed, problems = [], []
    for file in sorted(path for path in root.glob("*.json") if not is_sidecar(path) and path.is_file()):
        with translate_os_errors(file), file.open("rb") as stream:
            head = stream.read(_VERDICT)
        if b'"verdict"' not in head:
            continue
        try:
            plain = read_json(file)
        except IntegrityError as error:
            problems.append(str(error))
            continue
        if _is_comparison(plain):
            parsed.append({key: value for key, value in plain.items() if key != "examples"} | {"file": file.name})
    return sorted(
        parsed, key=lambda one: (one.get("evaluation_set") is not None, len(one["file"]), one["file"])
    ), problems


def _is_comparison(plain: Mapping[str, Any]) -> bool:
    """Whether every field that is read from it exists and has the right type."""
    return mismatch(plain, _Comparison) is None


def is_mock(file: Path) -> bool:
    """Whether scores, a comparison or a report say that they are about answers of the tiny stand-in model."""
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
    """Why a comparison no longer matches the answers or the adapters in its folder; None if it does.

    An adapter is hashed only if something in its folder changed after the comparison was written.

    Args:
        comparison: parsed, as from `comparisons`.
        file: the file that it was read from.
        answers: provenance of the tuned prediction files, by file.
        adapters: adapter folders.
    """
    b = comparison["settings"].get("b")
    compared = b.get("adapter") if isinstance(b, dict) else None
    if compared is None:
        return None
    sides = comparison.get("seeds")
    names = sides.get("b") if isinstance(sides, dict) else None
    for path, provenance in answers.items():
        first = isinstance(names, list) and path.stem in names[:1]
        if first and provenance.get("adapter") != compared:
            return f"{path.name} was made with another adapter"
    with translate_os_errors(file):
        written = file.stat().st_mtime_ns
        # With several seeds, the settings are those of the first seed, so its adapter must be one of them.
        if adapters and any(_changed(adapter) > written for adapter in adapters) and compared not in _hashes(adapters):
            return f"{', '.join(adapter.name for adapter in adapters)} is another adapter"
    return None


def _changed(folder: Path) -> int:
    """Last change (ctime, ns) of a folder or of a file in it; unlike mtime, `cp -p` and `touch` cannot set it back."""
    return max(path.stat().st_ctime_ns for path in (folder, *folder.iterdir()))


def _hashes(adapters: Sequence[Path]) -> Iterator[str]:
    for adapter in adapters:
        if is_adapter(adapter):
            yield hash_adapter(adapter)


def orphaned(main: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    """Messages about comparisons of evaluation sets that the config no longer has: the main one does not name them."""
    additional = main.get("additional")
    entries = additional if isinstance(additional, list) else []
    known = {entry.get("name") for entry in entries if isinstance(entry, dict)}
    return [
        f"{one['file']} is about the set {one['evaluation_set']}, which {main['file']} does not name"
        for one in others
        if one.get("evaluation_set") is not None and one["evaluation_set"] not in known
    ]
