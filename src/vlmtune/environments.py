"""Environments of programs that pin libraries of their own: found by their Python, run, and never imported."""

from pathlib import Path

from vlmtune.errors import EnvironmentProblem


def find_python(configured: Path, name: str, package: str, install: str) -> Path:
    """The Python of a program's environment.

    Args:
        configured: where it should be.
        name: of the program, for messages.
        package: that is in its environment.
        install: the command that makes the environment.

    Raises:
        EnvironmentProblem: it is not there; says how to install it.
    """
    # Not resolved: a virtual environment's python is a link, and the link's folder determines its packages.
    python = configured.absolute()
    if not python.exists():
        raise EnvironmentProblem(f"{python} does not exist: {name} needs a separate environment. Run: {install}")
    if not has_package(python, package):
        raise EnvironmentProblem(f"{python} has no {name}. Run: {install}")
    return python


def has_package(python: Path, package: str) -> bool:
    """Whether a package is installed for a Python interpreter, without starting it."""
    return any(python.absolute().parent.parent.glob(f"lib/python*/site-packages/{package}/__init__.py"))
