"""A forked child has connections of its own, and the parent keeps its own."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from featurechaos.demo.servers import ValkeyServer

if TYPE_CHECKING:
    from tests.redis.conftest import Kit

pytestmark = pytest.mark.live

# In a process of its own: pytest's has threads, which a fork would leave behind.
PROGRAM = """
import os, sys, threading, time
from featurechaos import codec
from featurechaos.clock import SystemClock
from featurechaos.errors import StoreError
from featurechaos.model import DType, Feature, JoinKey, View
from featurechaos.stores import Ask, Batch, Place
from featurechaos_redis import RedisSpec, RedisStore
import numpy as np

now = time.monotonic
view = View("proj", "alpha", "alpha", (JoinKey("user", DType.parse("string"), "user"),),
            (Feature("score", DType.parse("float32")),))
layout = codec.Layout.of(view)

def ask(ids):
    return Ask(view, layout, codec.encode_keys(view.join_keys, [ids])[0])

store = RedisStore.open(RedisSpec(url=sys.argv[1]), Place("primary", "proj", (view,), SystemClock()))
ids = [f"u{at}" for at in range(100)]
whole = ask(ids)
blobs = codec.encode(layout, {"score": np.arange(100)}, np.full(100, 5), whole.keys.own)
store.write(Batch(whole, blobs, np.full(100, 5)), now() + 10)

def check(times):
    for at in range(times):
        (answer,) = store.read([ask([ids[at % 100]])], now() + 10)
        assert answer == [blobs[at % 100]], at

stop = threading.Event()
busy = [threading.Thread(target=lambda: [check(1) for _ in iter(stop.is_set, True)]) for _ in range(4)]
for thread in busy:
    thread.start()
open_before = store.stats()["open"]
children = []
for _ in range(4):
    pid = os.fork()
    if not pid:
        code = 1
        try:
            assert store.stats()["open"] == 0, store.stats()
            check(200)
            assert store.stats()["open"] == 1
            store.close()
            code = 0
        finally:
            os._exit(code)
    children.append(pid)
check(200)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
check(200)
stop.set()
for thread in busy:
    thread.join()
dialled = store.stats()["dialled"]
assert codes == [0] * 4, codes
assert dialled <= 6, dialled
store.close()
print("well")
"""


def test_children_and_parent_read_side_by_side_on_their_own_connections(kit: Kit, valkey: ValkeyServer) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM, valkey.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stdout, done.returncode) == ("well\n", 0), done.stderr
