"""How a command ends."""

import pytest
import typer

from vlmtune.cli.app import run_and_exit
from vlmtune.errors import Exit


def test_ctrl_c_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    """Typer hands it back as a returned number."""
    app = typer.Typer()

    @app.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run_and_exit(lambda: app([], standalone_mode=False))
    assert end.value.code == Exit.INTERRUPTED
    assert "stopped immediately" in capsys.readouterr().err
