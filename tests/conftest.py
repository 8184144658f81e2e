"""Fixtures for every test: the embedded tiny checkpoint, dataset files."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on a busy two-core machine are slower for a tiny model
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Callable
from pathlib import Path

import pytest
from builders import TINY

from vlmtune.modeling.loading import find_checkpoint
from vlmtune.processing.encoder import Encoder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="Kill at many random moments instead of two; takes minutes.")


SLOWEST_FIRST = [
    *["test_classic.py", "test_demo.py", "test_interruption.py", "test_export.py", "test_setup.py", "end_to_end"],
    *["browser", "invariants", "contract", "fuzz"],
    *["test_clean_process.py", "test_dataset_check.py", "test_costs.py", "architecture"],
]
"""Files and folders that start before all others: a slow file that starts last leaves the other cores idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        names = (item.path.name, item.path.parent.name)
        return next((n for n, name in enumerate(SLOWEST_FIRST) if name in names), len(SLOWEST_FIRST))

    items.sort(key=rank)


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether to run many more rounds (`--soak`)."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """One per test file: it caches images by name, and other files use the same names for other images."""
    return Encoder(find_checkpoint(TINY), TINY)


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write rows (dicts, or raw text for broken lines) to a file of the dataset folder."""
    import json

    def write(name: str, *rows: object) -> Path:
        file = tmp_path / name
        file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
        return file

    return write
