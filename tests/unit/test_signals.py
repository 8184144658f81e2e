"""Signals become a request to stop in the main thread, and are nobody's business in others."""

import os
import signal
import threading

import pytest

from vlmtune.errors import Interrupted, Terminated
from vlmtune.signals import stop_on_signal


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Terminated), (signal.SIGHUP, Terminated)]
)
def test_a_signal_waits_for_the_next_safe_point(number: int, error: type[Exception]) -> None:
    before = signal.getsignal(number)
    with stop_on_signal() as stop:
        stop.raise_if_requested("nothing to save")
        os.kill(os.getpid(), number)
        with pytest.raises(error, match="step 3 is saved. Run the same command again to resume"):
            stop.raise_if_requested("step 3 is saved")
    assert signal.getsignal(number) == before


def test_nohup_stays_in_force() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            stop.raise_if_requested("nothing")
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_interrupt_stops_at_once() -> None:
    with stop_on_signal():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_another_thread_works_without_handlers() -> None:
    before = signal.getsignal(signal.SIGINT)
    ended: list[object] = []

    def work() -> None:
        with stop_on_signal() as stop:
            stop.raise_if_requested("nothing")
            ended.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [before]
