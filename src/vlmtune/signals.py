"""Ctrl-C and SIGTERM as a request to stop at the next safe point, instead of an exception anywhere."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vlmtune.errors import Interrupted, Terminated


class StopRequest:
    """Set by a signal; asked by loops where their state is whole."""

    def __init__(self) -> None:
        self.received: int | None = None

    def obey(self, saved: str) -> None:
        """Raise when a signal has come.

        Args:
            saved: what is safe by now, for the message.

        Raises:
            Interrupted, Terminated: as the signal was.
        """
        if self.received is None:
            return
        kind = Terminated if self.received == signal.SIGTERM else Interrupted
        raise kind(f"stopped by {signal.Signals(self.received).name}; {saved}. Run the same command again to go on")


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Listen for SIGINT and SIGTERM; a second Ctrl-C stops at once.

    Python delivers signals to the main thread, and only there may handlers be set: in any other thread nobody listens,
    and whoever started the thread decides what a signal means.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.received = number

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
