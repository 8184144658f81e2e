"""Every layout of benchmarks/layouts is read as it must be: `init`, `config check` and `data check`, with no edit."""

import importlib.util
import sys
from pathlib import Path

import pytest
from commands import ROOT

HERE = ROOT / "benchmarks" / "layouts"


sys.path.insert(0, str(HERE))
_spec = importlib.util.spec_from_file_location("measure_layouts", HERE / "run.py")
assert _spec is not None
assert _spec.loader is not None
measure_layouts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(measure_layouts)
LAYOUTS = {layout.name: layout for layout in measure_layouts.LAYOUTS}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_read_as_it_lies(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    row = measure_layouts.measure(LAYOUTS[name], tmp_path)
    assert (row["wrong"], row["error"], row["findings"]) == ([], "", {})
