"""What threads make of coming items while the caller works on the present ones.

The results depend on the items alone, never on the threads. Decoding and resizing leave Python's lock, and threads
share the cache of pictures, so processes would only cost memory.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

AHEAD = 2
"""Batches prepared before they are asked for."""


class Prefetch(Generic[Item, Made]):
    """What a function makes of items, batch after batch, in their order; to be used in a `with` block.

    An error of the function, or of whoever makes the batches, is raised when its batch is asked for. `waited_s` counts
    the time that batches were waited for.

    Args:
        make: the function; must be the same from any thread.
        batches: taken in the caller's thread, at most `AHEAD` before they are asked for.
        workers: threads; 0 works when asked.
    """

    def __init__(self, make: Callable[[Item], Made], batches: Iterable[Iterable[Item]], workers: int) -> None:
        self._make = make
        self._left = iter(batches)
        self._pool = ThreadPoolExecutor(workers, "vlmtune-prefetch") if workers else None
        self._ahead: deque[list[Future[Made]]] = deque()
        self.waited_s = 0.0

    def __enter__(self) -> "Prefetch[Item, Made]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[list[Made]]:
        return self

    def __next__(self) -> list[Made]:
        began = time.monotonic()
        try:
            if self._pool is None:
                return [self._make(item) for item in next(self._left)]
            while len(self._ahead) <= AHEAD:
                batch = next(self._left, None)
                if batch is None:
                    break
                self._ahead.append([self._pool.submit(self._make, item) for item in batch])
            if not self._ahead:
                raise StopIteration
            return [made.result() for made in self._ahead.popleft()]
        finally:
            self.waited_s += time.monotonic() - began
