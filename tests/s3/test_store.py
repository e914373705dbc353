"""The store as a client meets it: reads that never wait, dates, deletions, swaps, forks."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from featurechaos.clock import SystemClock
from featurechaos.codec import Layout, column, encode_keys, encode_tombstones, verify
from featurechaos.errors import DecodeError, RequestError, StoreRefused, StoreUnavailable
from featurechaos.model import Verdict
from featurechaos.stores import Ask, Batch, Block, Place
from featurechaos_s3 import AsyncS3Store, S3Store
from featurechaos_s3.buried import Buried, from_cache, from_json, to_cache
from featurechaos_s3.manifest import current_key, home
from tests.s3.conftest import (
    DAY_US,
    JUNE_US,
    PLANE,
    World,
    planes,
    publish,
    read_rows,
    refresh_here,
    seats,
    view_of,
)
from tests.s3.test_hydrate import until

pytestmark = pytest.mark.live
LAYOUT = Layout.of(PLANE)


def ask_for(*ids: str) -> Ask:
    keys, _, _ = encode_keys(PLANE.join_keys, [list(ids)])
    return Ask(PLANE, LAYOUT, keys)


def bury(store: S3Store, *ids: str, time_us: int) -> None:
    ask = ask_for(*ids)
    times = np.full(len(ids), time_us)
    store.bury(Batch(ask, encode_tombstones(LAYOUT, times, ask.keys.own), times))


def verdicts(store: S3Store, *ids: str, as_of_us: int | None = None) -> list[Verdict]:
    return [Verdict(int(one)) for one in read_rows(store, ids, as_of_us=as_of_us).verdicts]


def test_opening_and_reading_import_no_driver_and_start_no_thread(tmp_path: Path) -> None:
    program = f"""
import sys, threading
from pathlib import Path
from featurechaos.clock import SystemClock
from featurechaos.codec import Layout, encode_keys
from featurechaos.model import *
from featurechaos.stores import Ask, Place
from featurechaos_s3 import S3Store, S3Spec
keys = (JoinKey("t", DType.parse("string"), "t"),)
view = View("flights", "plane", "plane", keys, (Feature("x", DType.parse("int32")),))
spec = S3Spec(url="s3://features", endpoint_url="http://127.0.0.1:1", cache_dir={str(tmp_path)!r})
store = S3Store.open(spec, Place("standby", "flights", (view,), SystemClock()))
assert not list(Path({str(tmp_path)!r}).iterdir())
keys, _, _ = encode_keys(view.join_keys, [["a", "b"]])
assert store.read([Ask(view, Layout.of(view), keys)], 0.0) == [[None, None]]
print([name for name in ("boto3", "botocore", "pyarrow", "pandas") if name in sys.modules])
print(threading.active_count())
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("[]\n1\n", "")


def test_a_new_process_serves_what_an_older_one_left(world: World, free_port: int) -> None:
    store = world.store()
    publish(store, planes(10, 5))
    refresh_here(store)
    store.close()

    assert seats(world.store(), "N1", "N10") == [5, None]


def test_sources_that_differ_in_address_share_nothing(world: World) -> None:
    store = world.store()
    publish(store, planes(10, 5))
    refresh_here(store)

    assert seats(world.store(url=f"s3://features/{world.prefix}x"), "N1") == [None]


def test_an_alias_reads_what_its_view_stores(world: World) -> None:
    alias = replace(PLANE, name="last_plane")
    store = world.store(PLANE, alias)
    publish(store, planes(10, 5))
    refresh_here(store)

    (answer,) = store.read([Ask(alias, Layout.of(alias), ask_for("N1").keys)], 0.0)

    assert isinstance(answer, list)
    assert [blob is not None for blob in answer] == [True]
    assert store.replica_as_of("last_plane") == JUNE_US


def test_a_view_of_another_shape_finds_nothing_and_nothing_wrong(world: World) -> None:
    store = world.store()
    publish(store, planes(10, 5))
    refresh_here(store)
    other = view_of({"seats": "float64"})

    assert store.read([Ask(other, Layout.of(other), ask_for("N1").keys)], 0.0) == [[None]]


def test_three_dates_give_three_values(each_world: World) -> None:
    store = each_world.store()
    for day in range(3):
        publish(store, planes(10, 100 + day, time_us=JUNE_US + day * DAY_US))
    refresh_here(store)

    for day in range(2):
        assert store.prepare("plane", JUNE_US + day * DAY_US + 5, 60) == JUNE_US + day * DAY_US
    for day in range(3):
        at = JUNE_US + day * DAY_US
        assert seats(store, "N3", as_of_us=at) == [100 + day]
        assert seats(store, "N3", as_of_us=at + DAY_US - 1) == [100 + day]
        assert (read_rows(store, ["N3"], as_of_us=at).event_time == at).all()
    assert seats(store, "N3") == [102]
    assert store.replica_as_of("plane") == JUNE_US + 2 * DAY_US
    store.close()


def test_a_date_before_every_image_has_no_answer(world: World) -> None:
    store = world.store()
    publish(store, planes(10, 1))
    refresh_here(store)

    assert store.prepare("plane", JUNE_US - 1, 30) is None
    with pytest.raises(StoreUnavailable, match="no image of view 'plane' prepared for 2024-05-31T23:59:59"):
        seats(store, "N1", as_of_us=JUNE_US - 1)


def test_a_date_is_not_answered_before_it_is_prepared(world: World) -> None:
    store = world.store()
    publish(store, planes(10, 1))
    publish(store, planes(10, 2, time_us=JUNE_US + DAY_US))
    refresh_here(store)

    with pytest.raises(StoreUnavailable):
        seats(store, "N1", as_of_us=JUNE_US)


def test_preparing_without_a_server_says_so(world: World, free_port: int) -> None:
    store = world.store(endpoint_url=f"http://127.0.0.1:{free_port}")

    with pytest.raises(StoreUnavailable, match="source 'standby': view 'plane' as of 2024-06-01T00:00:00"):
        store.prepare("plane", JUNE_US, 30)


def test_a_prepared_date_outlives_newer_images(world: World) -> None:
    store = world.store()
    publish(store, planes(10, 1))
    store.prepare("plane", JUNE_US, 60)
    for day in (1, 2):
        publish(store, planes(10, 1 + day, time_us=JUNE_US + day * DAY_US))
        for folder in store._replicas._shelf("plane").folder.glob("2*"):
            os.utime(folder, (0, 0))
        refresh_here(store)

    assert seats(store, "N1", as_of_us=JUNE_US) == [1]


def test_a_deleted_row_is_hidden_at_once_and_everywhere_after_a_refresh(each_world: World) -> None:
    store, other = each_world.store(), each_world.store()
    publish(store, planes(10, 1))
    refresh_here(store)
    refresh_here(other)

    bury(store, "N1", "N2", "N77", time_us=JUNE_US)

    fresh, buried, missing = Verdict.FRESH, Verdict.BURIED, Verdict.MISSING
    assert verdicts(store, "N0", "N1", "N2", "N77", "N78") == [fresh, buried, buried, buried, missing]
    assert verdicts(other, "N1") == [fresh]
    assert refresh_here(other).state == "current"
    assert verdicts(other, "N0", "N1", "N77") == [fresh, buried, buried]
    assert verdicts(each_world.store(), "N1") == [buried]
    assert read_rows(other, ["N1"]).event_time.tolist() == [JUNE_US]


def test_a_deleted_row_stays_so_in_later_and_dated_images_until_it_is_written_again(world: World) -> None:
    store = world.store()
    publish(store, planes(10, 1))
    bury(store, "N1", time_us=JUNE_US + 5)
    publish(store, planes(10, 2, time_us=JUNE_US + 1))
    refresh_here(store)
    store.prepare("plane", JUNE_US, 60)
    assert verdicts(store, "N1", "N2") == [Verdict.BURIED, Verdict.FRESH]
    assert verdicts(store, "N1", as_of_us=JUNE_US) == [Verdict.BURIED]

    publish(store, planes(10, 3, time_us=JUNE_US + 6))
    refresh_here(store)

    assert seats(store, "N1") == [3]


def test_rows_with_strings_are_deleted_too(world: World) -> None:
    view = view_of({"name": "string"})
    store = world.store(view)
    publish(store, planes(5, 1) | {"name": list("abcde")}, view=view)
    refresh_here(store, view)
    layout, ask = Layout.of(view), ask_for("N1")
    times = np.array([JUNE_US])

    store.bury(Batch(Ask(view, layout, ask.keys), encode_tombstones(layout, times, ask.keys.own), times))

    rows = read_rows(store, ["N0", "N1"], view=view)
    assert rows.verdicts.tolist() == [Verdict.FRESH, Verdict.BURIED]
    assert column(rows, "name").tolist() == ["a", None]


def test_deletions_that_cannot_be_read_stop_the_refresh_and_not_the_reads(world: World) -> None:
    store = world.store()
    publish(store, planes(10, 1))
    refresh_here(store)
    world.bucket.put(f"{home('plane')}deletions/x.json", b'{"format": 1, "rows": [{"slot": "zz"}]}')
    publish(store, planes(10, 2, time_us=JUNE_US + 1))

    told = refresh_here(store)

    assert told.state == "refused"
    assert "deletions/x.json is no list of deletions" in told.detail
    assert seats(store, "N1") == [1]


def test_the_newest_tombstone_of_a_row_counts() -> None:
    buried = Buried([(7, 3), (2**64 - 1, 5)]).with_more([(7, 9), (7, 1)])

    hit, times = buried.times(np.array([1, 2**64 - 1, 7], np.uint64))

    assert (hit.tolist(), times.tolist()) == ([1, 2], [5, 9])
    assert len(buried) == 2
    assert sorted(from_cache(to_cache([("a", "b")], buried))[1]) == [(7, 9), (2**64 - 1, 5)]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"format": 2}', b'{"format":1,"rows":[{"slot":"10000000000000000","event_us":1}]}']
)
def test_anything_else_is_no_list_of_deletions(content: bytes) -> None:
    with pytest.raises(DecodeError, match="place"):
        from_json(content, place="place")


KEPT = to_cache([("deletions/x.json", "etag")], Buried([(7, 3), (2**64 - 1, 5)]))


@pytest.mark.parametrize("at", [at for at, sign in enumerate(KEPT) if chr(sign).isdigit() and at > len('{"format": 1')])
def test_one_digit_of_the_kept_deletions_that_is_another_is_noticed(at: int) -> None:
    damaged = KEPT[:at] + (b"1" if KEPT[at : at + 1] != b"1" else b"2") + KEPT[at + 1 :]

    with pytest.raises(DecodeError, match="the kept deletions are damaged"):
        from_cache(damaged)


def test_kept_deletions_of_an_older_version_have_no_checksum_and_are_read() -> None:
    fields = json.loads(KEPT)
    del fields["checksum"]

    objects, buried = from_cache(json.dumps(fields).encode())

    assert objects == {"deletions/x.json": "etag"}
    assert sorted(buried) == [(7, 3), (2**64 - 1, 5)]


def test_damaged_deletions_are_fetched_anew_and_no_row_comes_back(world: World) -> None:
    store = world.store()
    publish(store, planes(10, 1))
    bury(store, "N1", time_us=JUNE_US)
    refresh_here(store)
    path = store._replicas._shelf("plane").deletions_path
    (slot, _), *_ = json.loads(path.read_bytes())["rows"]
    path.write_text(path.read_text().replace(str(slot), str(slot ^ 1)))

    fresh = world.store()
    before = verdicts(fresh, "N1")
    refresh_here(fresh)

    assert before == [Verdict.MISSING], "nothing is served of an image whose deletions are not known"
    assert verdicts(fresh, "N1", "N2") == [Verdict.BURIED, Verdict.FRESH]


def test_a_swap_under_readers_never_mixes_images(world: World) -> None:
    store = world.store()
    publish(store, planes(500, 0))
    refresh_here(store)
    ask, stop = ask_for(*(f"N{number}" for number in range(0, 500, 3))), threading.Event()
    seen: list[set[int]] = [set(), set(), set()]
    wrong: list[object] = []

    def work(mine: set[int]) -> None:
        while not stop.is_set():
            (answer,) = store.read([ask], 0.0)
            assert isinstance(answer, Block)
            rows = verify(answer.words, ask.keys.own, LAYOUT, answer.found)
            values = set(column(rows, "seats").tolist())
            days = {(time - JUNE_US) // DAY_US for time in rows.event_time.tolist()}
            if len(values) != 1 or values != days or (rows.verdicts != Verdict.FRESH).any():
                wrong.append((values, days))
            mine.update(values)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    for day in range(1, 9):
        publish(store, planes(500, day, time_us=JUNE_US + day * DAY_US))
        refresh_here(store)
    stop.set()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert all(len(mine) > 1 for mine in seen)
    assert seats(store, "N0") == [8]
    assert "(deleted)" not in "".join(
        line for line in Path("/proc/self/maps").read_text().splitlines() if world.prefix in line
    )


def test_the_background_keeps_replicas_fresh(world: World) -> None:
    store, other = world.store(refresh_s=0.2), world.store(refresh_s=0.2)
    publish(store, planes(10, 1))
    for one in (store, other):
        one.start()
        one.start()
    until(lambda: seats(store, "N1") == seats(other, "N1") == [1])

    publish(store, planes(10, 2, time_us=JUNE_US + 1))

    until(lambda: seats(store, "N1") == seats(other, "N1") == [2])
    threads = [thread.name for thread in threading.enumerate()].count("featurechaos-refresher")
    store.close()
    other.close()
    assert threads == 2
    assert "featurechaos-refresher" not in [thread.name for thread in threading.enumerate()]


def test_a_store_nobody_holds_ends_its_thread(world: World) -> None:
    store = world.store(refresh_s=0.05)
    store.start()

    del store

    until(lambda: "featurechaos-refresher" not in [thread.name for thread in threading.enumerate()])


def _in_a_fork(store: S3Store, answers: Connection) -> None:
    threads = [thread.name for thread in threading.enumerate()]
    answers.send(seats(store, "N1"))
    answers.send((threads.count("featurechaos-refresher"), store._refresher._thread is not None))
    until(lambda: seats(store, "N1") == [2])
    answers.send(seats(store, "N1"))
    store.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_worker_reads_at_once_and_refreshes_on_its_own(world: World) -> None:
    store = world.store(refresh_s=0.2)
    publish(store, planes(10, 1))
    store.start()
    until(lambda: seats(store, "N1") == [1])
    here, there = multiprocessing.Pipe()
    worker = multiprocessing.get_context("fork").Process(target=_in_a_fork, args=(store, there))

    worker.start()

    assert here.poll(30)
    assert here.recv() == [1]
    # None came over with the fork; the read began one.
    assert here.recv() == (0, True)
    store.close()
    publish(world.store(), planes(10, 2, time_us=JUNE_US + 1))
    assert here.poll(30)
    assert here.recv() == [2]
    worker.join(30)
    assert worker.exitcode == 0


def test_a_closed_store_is_no_answer(world: World) -> None:
    store = world.store()
    publish(store, planes(10, 1))
    refresh_here(store)

    store.close()
    store.close()

    with pytest.raises(StoreUnavailable, match="source 'standby' is closed"):
        seats(store, "N1")
    assert store.refresh(5)[0].detail == "the source is closed"


def test_single_rows_are_not_written(world: World) -> None:
    store, ask = world.store(), ask_for("N1")

    assert not store.writable
    with pytest.raises(StoreRefused, match="takes no single rows of view 'plane': publish a whole image"):
        store.write(Batch(ask, [b""], np.array([JUNE_US])), 0.0)


def test_a_layout_of_another_view_is_not_published(world: World) -> None:
    other = view_of({"seats": "int32"}, name="train")

    with pytest.raises(RequestError, match="its layout is of 'train'"):
        world.store().publish(PLANE, Layout.of(other), planes(1, 1), as_of_us=None)


def test_layouts_are_never_asked_for(world: World) -> None:
    assert world.store().layouts("flights", [1, 2], 0.0) == {}


def test_the_async_form_reads_the_same(world: World) -> None:
    store = S3Store.aopen(world.spec(), Place("standby", "flights", (PLANE,), SystemClock()))

    async def live() -> None:
        assert isinstance(store, AsyncS3Store)
        await store.publish(PLANE, LAYOUT, planes(10, 4), as_of_us=None)
        (told,) = await store.refresh(60)
        assert told.state == "hydrated"
        (answer,) = await store.read([ask_for("N1", "N10")], 0.0)
        assert isinstance(answer, list)
        assert [blob is not None for blob in answer] == [True, False]
        assert await store.prepare("plane", JUNE_US, 60) == JUNE_US
        assert store.replica_as_of("plane") == JUNE_US
        assert await store.layouts("flights", [1], 0.0) == {}
        ask = ask_for("N1")
        times = np.array([JUNE_US])
        await store.bury(Batch(ask, encode_tombstones(LAYOUT, times, ask.keys.own), times))
        (hidden,) = await store.read([ask], 0.0)
        assert isinstance(hidden, list)
        with pytest.raises(StoreRefused):
            await store.write(Batch(ask, [b""], times), 0.0)
        await store.close()

    asyncio.run(live())


def test_a_pointer_to_what_is_gone_is_no_replica(world: World) -> None:
    store = world.store()
    publish(store, planes(10, 1))
    refresh_here(store)
    world.bucket.remove(current_key("plane"))
    shelf = store._replicas._shelf("plane")
    for folder in shelf.folder.glob("2*"):
        shelf.discard(folder.name)

    assert seats(store, "N1") == [1]
    assert seats(world.store(), "N1") == [None]
    assert refresh_here(store).state == "absent"
    assert seats(store, "N1") == [1]
