"""Completion of commands, options and names of configs in a shell, by what typer brings for it."""

import os
from typing import Annotated, Any, Literal

import typer
import typer.completion

from vlmtune.terminal import echo

COMPLETE = "_VLMTUNE_COMPLETE"
"""Environment variable in which a shell asks for completions; its name follows from that of the command."""

_TYPER: Any = typer.completion
"""Its functions for all shells, which typer's stubs do not declare."""


def prepare_completion() -> None:
    """Let typer answer a shell that asks for completions; does nothing otherwise."""
    if COMPLETE in os.environ:
        _TYPER.completion_init()


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish", "powershell"], typer.Argument(help="Your shell.")],
) -> None:
    """Print a script that completes commands, options and names of configs."""
    name = "pwsh" if shell == "powershell" else shell
    echo(_TYPER.get_completion_script(prog_name="vlmtune", complete_var=COMPLETE, shell=name))
