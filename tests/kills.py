"""Kills commands (-9) at random moments, and gives them again."""

import functools
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from commands import warm_vlmtune
from process_signals import killed_after, timed


def kill_at_random_moments(
    words: Sequence[str],
    kills: int,
    root: Path,
    found: Path | None = None,
    before: Callable[[], None] | None = None,
    shown: Callable[[Path], object] = str,
    done: Sequence[int] = (0,),
    **environment: str,
) -> tuple[Path, list[Path]]:
    """Kill a command twice in each of some folders, then let it end there; where a kill comes too late, it has ended.

    The moments are uniform over the time that the undisturbed command takes, without the third in which it starts; they
    are the same ones in every test run, by a seed whose first two fall into the middle.

    Args:
        words: the command.
        kills: how many.
        root: where the folders are made.
        found: what each folder holds at first.
        before: called in every process of the command.
        shown: what to say of a folder after a kill; may check it.
        done: exit codes of the last command: it may refuse to overwrite what it had finished as it was killed.
        environment: of the command.

    Returns:
        The folder of the undisturbed command, and those of the killed ones.
    """
    whole, clock, moments = root / "whole", root / "seconds", random.Random(12)
    _fill(whole, found)
    ended = warm_vlmtune(*words, cwd=whole, before=functools.partial(_both, before, timed(clock)), **environment)
    assert ended.returncode == 0, ended.stderr
    takes, left, folders = float(clock.read_text()), kills, []
    while left > 0:
        here = root / f"killed {len(folders)}"
        _fill(here, found)
        folders.append(here)
        for _ in range(min(2, left)):
            moment = moments.uniform(takes / 3, takes)
            armed = functools.partial(_both, before, killed_after(moment))
            ended = warm_vlmtune(*words, cwd=here, before=armed, **environment)
            assert ended.returncode in (-9, *done), ended.stderr
            if ended.returncode in done:
                break
            left -= 1
            making = sorted(path.name for path in here.glob("out/.vlmtune/*/*"))
            print(f"{here.name}: {moment:.2f} of {takes:.2f} s; {shown(here)}; in the making: {making}")
        else:
            ended = warm_vlmtune(*words, cwd=here, before=before, **environment)
            assert ended.returncode in done, ended.stderr
    return whole, folders


def _fill(folder: Path, found: Path | None) -> None:
    shutil.copytree(found, folder) if found is not None else folder.mkdir()


def _both(first: Callable[[], None] | None, second: Callable[[], None]) -> None:
    if first is not None:
        first()
    second()
