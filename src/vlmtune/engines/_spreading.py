"""Work spread over a few threads, results as they come; a run in which nothing happens any more is ended.

Threads are daemons: one that hangs in a dead connection keeps nobody from leaving.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TypeVar

from vlmtune.errors import RemoteError, VlmtuneError

TICK_S = 0.2
"""How often it is looked whether work still makes progress."""

Work = TypeVar("Work")
Result = TypeVar("Result")


def spread(
    items: Iterable[Work],
    work: Callable[[Work], Result],
    threads: int,
    watchdog_s: float,
    look: Callable[[], None],
) -> Iterator[Result]:
    """Results of `work` in the order in which they are ready.

    Args:
        items: taken in this thread, one whenever a thread is free; taking one may raise.
        work: called in other threads; what of our errors it raises is raised here.
        threads: how many work at once.
        watchdog_s: seconds without any result after which the run is ended.
        look: called now and then while there is nothing to do; may raise.

    Raises:
        RemoteError: no result for `watchdog_s` seconds.
    """
    jobs: SimpleQueue[Work | None] = SimpleQueue()
    done: SimpleQueue[Result | VlmtuneError | None] = SimpleQueue()
    for _ in range(threads):
        threading.Thread(target=_run, args=(work, jobs, done), daemon=True).start()
    source, waiting = iter(items), 0
    try:
        while True:
            for item in islice(source, threads - waiting):
                jobs.put(item)
                waiting += 1
            if not waiting:
                return
            made = _next(done, watchdog_s, look)
            waiting -= 1
            if made is None:
                raise RuntimeError("a thread ended with the error printed above")
            if isinstance(made, VlmtuneError):
                raise made
            yield made
    finally:
        for _ in range(threads):
            jobs.put(None)


def _run(
    work: Callable[[Work], Result],
    jobs: "SimpleQueue[Work | None]",
    done: "SimpleQueue[Result | VlmtuneError | None]",
) -> None:
    """One thread. What it did not foresee is printed by Python as the thread ends; None tells that it happened."""
    while (job := jobs.get()) is not None:
        made: Result | VlmtuneError | None = None
        try:
            made = work(job)
        except VlmtuneError as error:
            made = error
        finally:
            done.put(made)


def _next(done: "SimpleQueue[Result]", watchdog_s: float, look: Callable[[], None]) -> Result:
    until = time.monotonic() + watchdog_s
    while True:
        try:
            return done.get(timeout=TICK_S)
        except Empty:
            look()
        if time.monotonic() > until:
            raise RemoteError(
                f"no answer came for {watchdog_s:g} s (inference.watchdog_s); the server hangs. What was answered is "
                "kept: run the same command again when it works"
            )
