"""Threads that prepare the next batches while the caller works on the current one.

Results depend on the items alone, never on the threads. Decoding and resizing release Python's lock and threads share
the cache of images, so processes would only cost memory.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2
"""Batches prepared before they are requested."""


class Prefetch(Generic[Item, Result]):
    """Iterates over a function's results, batch by batch and in order; to be used in a `with` block.

    An error raised by the function, or by the iterator of batches, is raised when that batch is requested. `waited_s`
    adds up the time spent waiting for batches.

    Args:
        function: must return the same in any thread.
        batches: taken in the caller's thread, at most `AHEAD` before they are requested.
        workers: number of threads; 0 computes each batch on request.
    """

    def __init__(self, function: Callable[[Item], Result], batches: Iterable[Iterable[Item]], workers: int) -> None:
        self._function = function
        self._batches = iter(batches)
        self._pool = ThreadPoolExecutor(workers, "vlmtune-prefetch") if workers else None
        self._ahead: deque[list[Future[Result]]] = deque()
        self.waited_s = 0.0

    def __enter__(self) -> "Prefetch[Item, Result]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[list[Result]]:
        return self

    def __next__(self) -> list[Result]:
        began = time.monotonic()
        try:
            if self._pool is None:
                return [self._function(item) for item in next(self._batches)]
            while len(self._ahead) <= AHEAD:
                batch = next(self._batches, None)
                if batch is None:
                    break
                self._ahead.append([self._pool.submit(self._function, item) for item in batch])
            if not self._ahead:
                raise StopIteration
            return [future.result() for future in self._ahead.popleft()]
        finally:
            self.waited_s += time.monotonic() - began


class KeyLocks:
    """One lock per key: threads that need the same thing wait for the first one; others proceed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[Hashable, threading.Lock] = {}

    @contextmanager
    def hold(self, key: Hashable) -> Iterator[None]:
        """Hold the lock of a key. A thread that had to wait should check first whether the work is already done."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            try:
                yield
            finally:
                with self._lock:
                    self._locks.pop(key, None)
