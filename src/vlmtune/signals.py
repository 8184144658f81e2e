"""Ctrl-C, SIGTERM and SIGHUP as a request to stop at the next safe point, instead of an exception anywhere."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vlmtune.errors import Interrupted, Terminated


class StopRequest:
    """Set by a signal; polled by loops wherever their state is consistent."""

    def __init__(self) -> None:
        self.received: int | None = None

    def raise_if_requested(self, saved: str) -> None:
        """Raise if a signal was received.

        Args:
            saved: what has been saved, for the message.

        Raises:
            Interrupted, Terminated: for SIGINT; for SIGTERM and SIGHUP.
        """
        if self.received is None:
            return
        kind = Interrupted if self.received == signal.SIGINT else Terminated
        raise kind(f"stopped by {signal.Signals(self.received).name}; {saved}. Run the same command again to resume")


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Handle SIGINT, SIGTERM and SIGHUP; a second Ctrl-C stops immediately.

    SIGHUP stays ignored where it is, as `nohup` does.

    Python delivers signals to the main thread, and handlers can be set only there: in any other thread none is set, and
    the caller decides what a signal means.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.received = number

    handled = [signal.SIGINT, signal.SIGTERM]
    handled += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    before = {number: signal.signal(number, handle) for number in handled}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
