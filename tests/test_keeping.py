"""The thread that does what is due beside the requests."""

from __future__ import annotations

import threading

import pytest

from featurechaos.keeping import Keeper


def test_where_there_is_no_thread_to_be_had_the_caller_goes_on_and_a_later_one_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worked = threading.Event()
    keeper = Keeper(worked.set, name="keeper")

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        keeper.start()
    keeper.start()

    assert worked.wait(10)
    keeper.close()
