"""`python -m tests.live.forker CONFIG BASE_US`: forks while its threads read, as gunicorn's prefork does.

A process of its own: pytest's has threads that a fork would leave behind. Ends with 0 and says `well`.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from random import Random

from featurechaos import FeatureClient, Origin
from featurechaos.faults import Outage
from tests.live.service import Diary, drawn
from tests.live.truth import FEATURES

CHILDREN, READERS = 6, 4
MOST_CAUGHT = 2
_CHILD_MOST_S = 20


def read(client: FeatureClient, rng: Random, diary: Diary, times: int) -> set[int]:
    """Some reads of the primary, kept in a diary; the origins that answered for rows that are everywhere."""
    origins: set[int] = set()
    for _ in range(times):
        keys, rows = drawn(rng)
        response = client.get_online_features(FEATURES, rows, deadline_s=5)
        diary.answered(0.0, 0.0, keys, response)
        origins |= set(response.provenance("plane").origin.tolist())
    return origins


def local(client: FeatureClient) -> set[int]:
    """The origins of a row read from the local tiers alone."""
    response = client.get_online_features(["plane:number"], {"tail": [3]}, deadline_s=0)
    assert response.columns["number"].tolist() == [3 * 16 + 1], response.columns["number"]
    return set(response.provenance("plane").origin.tolist())


def child(client: FeatureClient, base: str, number: int) -> None:
    assert client.chaos.live() == (), "a child holds no fault of its parent's"
    assert local(client) == {Origin.SNAPSHOT}
    diary = Diary()
    assert read(client, Random(number), diary, 40) == {Origin.PRIMARY}
    diary.saved(Path(f"{base}.{number}.npz"))
    client.close()
    assert threading.active_count() == 1, threading.enumerate()
    # A connection that was being dialled or dropped at the instant of the fork is in no pool that could close it here.
    assert len(sockets()) <= MOST_CAUGHT, sockets()


def sockets() -> list[str]:
    """The sockets this process has open."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor of this very listing
            if path.readlink().name.startswith("socket:"):
                found.append(_told(int(path.name)))
    return found


def _told(descriptor: int) -> str:
    with socket.socket(fileno=os.dup(descriptor)) as one:
        with suppress(OSError):
            return f"{one.getsockname()} to {one.getpeername()}"
        return f"{one.getsockname()}"


def forked(client: FeatureClient, base: str, number: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        # A lock inherited held would keep it for ever: then this says where, and ends it.
        faulthandler.dump_traceback_later(_CHILD_MOST_S, exit=True)
        child(client, base, number)
        code = 0
    except BaseException:  # noqa: BLE001 - told, and then this process is over
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main(config: str, base: str) -> None:
    client = FeatureClient.from_config(json.loads(config))
    stop, wrong = threading.Event(), list[BaseException]()
    diaries = [Diary() for _ in range(READERS)]

    def work(rng: Random, diary: Diary) -> None:
        try:
            while not stop.wait(0.001):
                assert read(client, rng, diary, 1) <= {Origin.PRIMARY}
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(Random(100 + n), diary)) for n, diary in enumerate(diaries)]
    assert read(client, Random(1), Diary(), 1) == {Origin.PRIMARY}
    for thread in threads:
        thread.start()
    # Until all have their connection: one being opened during a fork is the kernel's to close, with the child.
    while min(len(diary.answers) for diary in diaries) < 20 and not wrong:
        stop.wait(0.01)
    # For a source nobody reads from, so that the parent's readers are not hit: what counts is who holds it.
    injection = client.chaos.inject(Outage("standby"), share=1.0, lease_s=60, seed=7, reason="a fork", control=False)
    pids = []
    for number in range(CHILDREN):
        pids.append(forked(client, base, number))
        stop.wait(0.02)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    held = client.chaos.holds(injection)
    injection.clear()
    stop.set()
    for thread in threads:
        thread.join()
    assert codes == [0] * CHILDREN, codes
    assert held, "the parent holds what it did"
    assert not wrong, wrong
    assert local(client) == {Origin.SNAPSHOT}
    for number, diary in enumerate(diaries):
        diary.saved(Path(f"{base}.parent{number}.npz"))
    client.close()
    assert threading.active_count() == 1, threading.enumerate()
    sys.stdout.write("well\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
