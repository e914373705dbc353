"""Reads watched from outside: how they ended, in time, on threads and on both sides of a fork."""

from __future__ import annotations

import os
import select
import threading
import warnings
from collections.abc import Callable
from typing import Any

from featurechaos.clock import SystemClock
from featurechaos.stores import Ask

CLOCK = SystemClock()
IN_TIME_S = 10.0
"""What a healthy read may take; generous, for busy machines."""
SOON_S = 0.05
SLACK_S = 0.5
"""How much later than asked a read may end before the suite calls it late; a missed deadline is far later."""


def in_time() -> float:
    return CLOCK.monotonic() + IN_TIME_S


def outcome(store: Any, ask: Ask, until: float) -> Exception | None:
    """The error a read ended in, whatever it is; None if it answered."""
    try:
        store.read([ask], until)
    except Exception as error:  # noqa: BLE001 - which errors may come is what is tested
        return error
    return None


def finished(pending: Any) -> Any:
    """Advance a read to its end as the engine would."""
    until = in_time()
    while (answers := pending.advance()) is None:
        assert CLOCK.monotonic() < until, "it does not end"
        poller = select.poll()
        poller.register(pending.fileno(), select.POLLIN)
        poller.poll(1000)
    return answers


def ends(thread: threading.Thread) -> bool:
    """Whether a thread is over, at once or soon: one on its way out needs a moment."""
    thread.join(2.0)
    return not thread.is_alive()


def together(work: Callable[[int], None], threads: int, wrong: list[Any]) -> None:
    """Run work on several threads; what they raise is wrong too."""

    def guarded(number: int) -> None:
        try:
            work(number)
        except Exception as error:  # noqa: BLE001 - told by the thread that waits
            wrong.append(error)

    running = [threading.Thread(target=guarded, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def forked(work: Callable[[], bool]) -> int:
    """Do something in a child process; its id, once the child is up."""
    heard, told = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that threads and forks do not mix: here they must
        child = os.fork()
    if child:
        os.close(told)
        os.read(heard, 1)
        os.close(heard)
        return child
    code = 1
    try:
        os.write(told, b"1")
        code = 0 if work() else 2
    finally:
        os._exit(code)


def exit_code(child: int) -> int:
    until = in_time()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if CLOCK.monotonic() > until:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return -9
        select.select([], [], [], 0.005)
