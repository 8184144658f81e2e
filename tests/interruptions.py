"""Trainings that are interrupted, and what they leave."""

from pathlib import Path

from vlmtune.signals import StopRequest


class StopAfter(StopRequest):
    """As if Ctrl-C came during the n-th question."""

    def __init__(self, questions: int) -> None:
        self._left = questions
        self._signal: int | None = None

    @property
    def received(self) -> int | None:  # type: ignore[override]
        self._left -= 1
        return 2 if self._left < 0 else None


def adapter_bytes(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
