"""Fuzzing: mutates input and looks for anything that is neither success nor one of vlmtune's errors.

A case is determined by its seed, name and number.
"""

import copy
import json
import random
import resource
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from vlmtune.errors import Exit, VlmtuneError

LONGEST_S = 5.0
"""CPU-seconds after which a case counts as hanging; an ordinary case takes hundredths."""

HUGE = [b"1e999", b"9" * 400, b"-0", b"NaN", b"[" * 3000, b'{"a":' * 2000, b"null", b"\\ud800", b"18446744073709551616"]


BLAMED = (Exit.USAGE, Exit.DATA)
"""Exit codes that blame the input, where it is a config or a dataset."""

MOST_MEMORY_KB = 1_000_000
"""Memory that a hunt may take more than before."""


class Hangs(Exception):
    """A case that took too long."""


def hunt(
    name: str, rounds: int, case: Callable[[random.Random], object], seed: int = 1, codes: Sequence[Exit] = BLAMED
) -> Counter[str]:
    """Count the cases that end "fine" or in an "error" that blames the input; raise anything else."""
    ends: Counter[str] = Counter()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + MOST_MEMORY_KB
    for number in range(rounds):
        try:
            with _in_time():
                case(random.Random(f"{seed}/{name}/{number}"))
            ends["fine"] += 1
        except VlmtuneError as error:
            assert error.exit_code in codes, f"{name}, case {number} of seed {seed}: {error}"
            ends["error"] += 1
        except Exception as error:
            error.add_note(f"{name}, case {number} of seed {seed}")
            raise
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert used < most, f"{name}, case {number} of seed {seed}: more memory than {MOST_MEMORY_KB} KB"
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


HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**40, -(10**9), 0.5, 1e308, "", " ", "x" * 3000, "../../etc/passwd",
    "\x1b[31m", "\0", "\u202e\u2028é", "<script>", [], {}, [[]], [None], [{}], {"": 1}, {"a": {"b": []}}, [1, "a"],
]  # fmt: skip
"""Values of any type in the place of another."""


def mutated_json(data: bytes, rng: random.Random) -> bytes:
    """One to three mutations of a JSON text, or of lines of it, in its structure or in its bytes."""
    lines = data.splitlines() if not data.startswith(b"{\n") else [data]
    if rng.random() < 0.3 or not all(map(_is_json, lines)):
        return mutated(data, rng)
    for _ in range(rng.randint(1, min(3, len(lines)))):
        at = rng.choice([n for n, line in enumerate(lines) if line])
        root = [json.loads(lines[at])]
        _replace(root, rng)
        lines[at] = json.dumps(root[0], ensure_ascii=rng.random() < 0.5).encode() if root else b""
    return b"\n".join(lines) + b"\n"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _replace(root: list[Any], rng: random.Random) -> None:
    """Delete, exchange or wrap one value, anywhere in the tree; shallow ones as often as deep ones."""
    holder: Any = root
    key: Any = 0
    while isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.7:
        holder = holder[key]
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    change = rng.randrange(5)
    if change == 0:
        del holder[key]
    elif change == 1:
        holder[key] = rng.choice([[holder[key]], {"a": holder[key]}, str(holder[key])])
    elif change == 2 and isinstance(holder, dict):
        holder[rng.choice(list(holder))] = copy.deepcopy(holder[key])
    else:
        holder[key] = copy.deepcopy(rng.choice(HOSTILE))


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
