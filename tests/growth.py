"""How much longer a function takes on longer input: a ratio, so that it says the same on a slow machine."""

import time
from collections.abc import Callable

TIMES = 4
"""How many times longer the longer input is."""

LINEAR = TIMES**1.5
"""Growth that a function stays below whose time is linear; a quadratic one takes 16 times as long."""


def growth(read: Callable[[str], object], part: str, size: int = 5_000) -> float:
    """The CPU time for `part` repeated to TIMES * `size` characters, as a multiple of that for `size`."""

    def seconds(length: int) -> float:
        text, spent = part * (length // len(part)), []
        for _ in range(3):
            begin = time.process_time()
            read(text)
            spent.append(time.process_time() - begin)
        return min(spent)

    # Less than a millisecond is the clock's noise.
    return seconds(TIMES * size) / max(seconds(size), 1e-3)
