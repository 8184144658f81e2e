"""Fuzzing: mutates input and looks for anything that is neither success nor one of vlmtune's errors.

A case is determined by its seed, name and number.
"""

import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from vlmtune.errors import Exit, VlmtuneError

LONGEST_S = 5.0
"""CPU-seconds after which a case counts as hanging; an ordinary case takes hundredths."""

HUGE = [b"1e999", b"9" * 400, b"-0", b"NaN", b"[" * 3000, b'{"a":' * 2000, b"null", b"\\ud800", b"18446744073709551616"]


class Hangs(Exception):
    """A case that took too long."""


def hunt(name: str, rounds: int, case: Callable[[random.Random], object], seed: int = 1) -> Counter[str]:
    """Count the cases that end "fine" or in an "error" that blames the input; raise anything else."""
    ends: Counter[str] = Counter()
    for number in range(rounds):
        try:
            with _in_time():
                case(random.Random(f"{seed}/{name}/{number}"))
            ends["fine"] += 1
        except VlmtuneError as error:
            assert error.exit_code in (Exit.USAGE, Exit.DATA), f"{name}, case {number} of seed {seed}: {error}"
            ends["error"] += 1
        except Exception as error:
            error.add_note(f"{name}, case {number} of seed {seed}")
            raise
    return ends


@contextmanager
def _in_time() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Hangs

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def mutated(data: bytes, rng: random.Random, binary: bool = False) -> bytes:
    """One to three mutations. Most binary files get only a byte or two: more, and no reader gets past the header."""
    if binary and rng.random() < 0.8:
        return flipped(data, rng, 2)
    for _ in range(rng.randint(1, 3)):
        data = rng.choice(_damages(data, rng))()
    return data


def flipped(data: bytes, rng: random.Random, most: int) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, most) if data else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _damages(data: bytes, rng: random.Random) -> list[Callable[[], bytes]]:
    """Mutations of a file's bits, ends, lines, encoding and values."""
    at, length = rng.randrange(len(data) + 1), rng.randrange(1, 40)
    lines = data.split(b"\n")
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    text = data.decode("utf-8", "replace")
    put = [*HUGE, b'"', b",", b"]", b"}", b"\\", b"\t", b"\0"]
    return [
        lambda: flipped(data, rng, 8),
        lambda: data[:at],
        lambda: data[at:],
        lambda: data[:at] + data[at + length :],
        lambda: data[:at] + data[at : at + length] * 3 + data[at:],
        lambda: b"\n".join(lines),
        lambda: b"\xef\xbb\xbf" + data,
        lambda: data.replace(b"\n", b"\r\n"),
        lambda: text.encode("utf-16"),
        lambda: text.encode("latin-1", "replace"),
        *[lambda: data[:at] + rng.choice(put) + data[at:]] * 3,
    ]
