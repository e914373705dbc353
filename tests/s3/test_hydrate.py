"""Hydration: what comes of it when all is well, and when anything on the way is not."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurechaos.clock import SystemClock
from featurechaos.codec import column
from featurechaos.errors import RequestError
from featurechaos_s3.child import NICE, Hydrator
from featurechaos_s3.hydrate import STEPS, STOP_AT
from featurechaos_s3.manifest import Current, Manifest, current_key
from tests.s3.conftest import DAY_US, JUNE_US, World, planes, publish, read_rows, refresh_here, seats, view_of

pytestmark = pytest.mark.live


def hydrators(parent: int) -> list[int]:
    """The hydrating processes a process has started and that are still there."""
    found = []
    for listing in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in listing.read_text().split()]
    return [pid for pid in found if b"hydrate" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def until(claim: Callable[[], Any], *, most_s: float = 60.0) -> Any:
    """Wait for something another process does."""
    clock, pause = SystemClock(), threading.Event()
    end = clock.monotonic() + most_s
    while clock.monotonic() < end:
        with contextlib.suppress(OSError):
            if got := claim():
                return got
        pause.wait(0.01)
    pytest.fail("it did not come to pass")


def test_a_child_process_hydrates_and_the_next_one_finds_it_current(each_world: World) -> None:
    store = each_world.store()
    (absent,) = store.refresh(30)
    publish(store, planes(100, 180))

    (first,) = store.refresh(30)
    (second,) = store.refresh(30, views=["plane"])

    assert (absent.state, absent.as_of_us) == ("absent", None)
    assert (first.state, first.as_of_us, first.rows) == ("hydrated", JUNE_US, 100)
    assert (second.state, second.as_of_us, second.rows) == ("current", JUNE_US, 100)
    assert seats(store, "N0", "N99", "N100") == [180, 180, None]
    assert store.replica_as_of("plane") == JUNE_US
    store.close()


def test_a_child_lets_the_serving_process_go_before_it_from_its_first_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "featurechaos_s3"
    package.mkdir()
    (package / "__init__.py").write_text("import os\nNICE = os.nice(0)\n")
    (package / "hydrate.py").write_text(
        "import json\nfrom pathlib import Path\nfrom featurechaos_s3 import NICE\n"
        "group = Path('/proc/self/autogroup')\n"
        "def main():\n"
        "    told = group.read_text().split()[-1] if group.exists() else None\n"
        "    print(json.dumps({'view': 'any', 'nice': NICE, 'group': told}))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    outcomes, why = Hydrator().run({}, 30)

    assert why == ""
    assert outcomes["any"]["nice"] == min(19, os.nice(0) + NICE)
    assert outcomes["any"]["group"] in (None, str(NICE))


def test_folders_and_files_are_ours_alone(world: World) -> None:
    store = world.store()
    publish(store, planes(3, 1))
    store.refresh(30)

    modes = {stat.S_IMODE(path.stat().st_mode) for path in store._replicas._shelf("plane").folder.rglob("*")}

    assert modes == {0o700, 0o600}


@pytest.mark.parametrize(
    ("step", "is_first"), [(step, False) for step in STEPS] + [("encode", True), ("rename", True), ("point", True)]
)
def test_a_child_killed_at_any_step_leaves_the_old_replica_or_none(
    step: str, is_first: bool, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = world.store()
    if not is_first:
        publish(store, planes(10, 1))
        refresh_here(store)
    publish(store, planes(10, 2, time_us=JUNE_US + DAY_US))
    monkeypatch.setenv(STOP_AT, step)
    done: list[Any] = []
    caller = threading.Thread(target=lambda: done.extend(store.refresh(60)))
    caller.start()

    (child,) = until(lambda: [pid for pid in hydrators(os.getpid()) if is_stopped(pid)])
    os.kill(child, signal.SIGKILL)
    caller.join()

    assert (done[0].state, done[0].detail) == ("failed", "the hydrating process was killed by signal 9")
    assert seats(store, "N0") == [None if is_first else 1]
    # A new process sees the same: nothing half made is ever taken for a replica.
    assert seats(world.store(), "N0") == [None if is_first else 1]
    monkeypatch.delenv(STOP_AT)
    assert refresh_here(store).state in ({"hydrated"} if step != "point" else {"current"})
    assert seats(store, "N0") == [2]
    assert not list(store._replicas._shelf("plane").folder.glob(".making-*"))


def test_a_child_out_of_time_is_killed_by_its_id(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    store = world.store()
    publish(store, planes(10, 1))
    monkeypatch.setenv(STOP_AT, "encode")

    (told,) = store.refresh(2.5)

    assert (told.state, told.detail) == ("failed", "hydration did not finish in 2.5 s")
    assert hydrators(os.getpid()) == []


def test_a_child_does_not_outlive_the_process_that_started_it(world: World) -> None:
    publish(world.store(), planes(10, 1))
    program = (
        "from tests.s3.conftest import *\n"
        "class There:\n"
        f"    endpoint_url = {world.server.endpoint_url!r}\n"
        f"World(There(), Path({str(world.cache)!r}), {world.prefix!r}).store().refresh(60)\n"
    )
    root = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=root, env=os.environ | {STOP_AT: "encode"})
    (child,) = until(lambda: [pid for pid in hydrators(parent.pid) if is_stopped(pid)])

    parent.kill()
    parent.wait()

    until(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2])


def test_closing_ends_a_hydration_at_work(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    store = world.store(refresh_s=3600)
    publish(store, planes(10, 1))
    monkeypatch.setenv(STOP_AT, "encode")
    store.start()
    until(lambda: [pid for pid in hydrators(os.getpid()) if is_stopped(pid)])

    store.close()
    store.close()

    assert hydrators(os.getpid()) == []
    assert "featurechaos-refresher" not in [thread.name for thread in threading.enumerate()]


def damaged_part(world: World, manifest: Manifest) -> None:
    key = manifest.part_key(manifest.parts[0])
    content, _ = world.bucket.get(key, most_bytes=1 << 20)
    world.bucket.put(key, content[:-1] + bytes([content[-1] ^ 1]))


def other_content_same_etag(world: World, manifest: Manifest) -> None:
    """What a damaged disk under the server would give: the manifest is told the ETag of damaged bytes."""
    damaged_part(world, manifest)
    part = manifest.part_key(manifest.parts[0])
    (thing,) = world.bucket.things(part)
    forged = manifest.to_json().replace(json.dumps(manifest.parts[0].etag).encode(), json.dumps(thing.etag).encode())
    world.bucket.put(manifest.key, forged)
    _announce(world, manifest, forged)


def _announce(world: World, manifest: Manifest, content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()
    world.bucket.put(current_key("plane"), Current(manifest.snapshot, manifest.as_of_us, digest).to_json())


def forged(change: dict[str, Any]) -> Callable[[World, Manifest], None]:
    def forge(world: World, manifest: Manifest) -> None:
        content = json.dumps(json.loads(manifest.to_json()) | change).encode()
        world.bucket.put(manifest.key, content)
        _announce(world, manifest, content)

    return forge


def gone_part(world: World, manifest: Manifest) -> None:
    world.bucket.remove(manifest.part_key(manifest.parts[0]))


def gone_manifest(world: World, manifest: Manifest) -> None:
    world.bucket.remove(manifest.key)


def damaged_manifest(world: World, manifest: Manifest) -> None:
    world.bucket.put(manifest.key, manifest.to_json() + b" ")


def damaged_current(world: World, _manifest: Manifest) -> None:
    world.bucket.put(current_key("plane"), b'{"format": 1, "snapshot": "../../etc/passwd"')


def current_of_nothing(world: World, _manifest: Manifest) -> None:
    content = {"format": 1, "snapshot": "20990101T000000.000000Z-00000000", "as_of_us": 1, "manifest_sha256": ""}
    world.bucket.put(current_key("plane"), json.dumps(content).encode())


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damaged_part, "is not the part its manifest names"),
        (other_content_same_etag, "of SHA-256"),
        (gone_part, "is not the part its manifest names"),
        (gone_manifest, "has no manifest"),
        (damaged_manifest, "wants SHA-256"),
        (damaged_current, "is not JSON"),
        (current_of_nothing, "has no manifest"),
        (forged({"rows": 11}), "says 11 rows, its parts have 10"),
        (forged({"project": "trains"}), "is of project 'trains', not 'flights'"),
        (forged({"schema_hash": "0" * 16}), "says schema 0000000000000000"),
        (forged({"schema": {"features": []}}), "layout"),
        (forged({"format": 9}), "wants format 1"),
    ],
)
def test_a_damaged_image_is_refused_and_the_old_one_serves_on(
    damage: Callable[[World, Manifest], None], says: str, world: World
) -> None:
    store = world.store()
    publish(store, planes(10, 1))
    refresh_here(store)
    damage(world, publish(store, planes(10, 2, time_us=JUNE_US + DAY_US)))

    told = refresh_here(store)

    assert told.state == "refused"
    assert says in told.detail
    assert (told.as_of_us, told.rows) == (JUNE_US, 10)
    assert seats(store, "N0") == [1]
    assert seats(world.store(), "N0") == [1]


def test_parts_with_other_rows_than_announced_are_refused(world: World) -> None:
    store = world.store()
    manifest = publish(store, planes(10, 2))
    part = json.loads(manifest.to_json())["parts"][0]
    forged({"rows": 11, "parts": [part | {"rows": 11}]})(world, manifest)

    told = refresh_here(store)

    assert (told.state, told.detail) == ("refused", f"image {manifest.snapshot} wants 11 rows, got 10")


def test_no_server_is_told_and_raises_nothing(world: World, free_port: int) -> None:
    endpoint = {"endpoint_url": f"http://127.0.0.1:{free_port}"}

    (told,) = world.store(**endpoint).refresh(30)

    assert told.state == "failed"
    assert "source 'standby'" in told.detail


def test_an_image_too_big_is_refused_and_the_old_one_serves_on(world: World) -> None:
    store = world.store(max_bytes=2000)
    publish(store, planes(10, 1))
    refresh_here(store)
    manifest = publish(store, planes(100, 2, time_us=JUNE_US + 1))

    told = refresh_here(store)

    assert told.state == "refused"
    assert f"image {manifest.snapshot} takes" in told.detail
    assert "more than max_bytes 2000" in told.detail
    assert seats(store, "N0") == [1]


def test_rows_of_strings_are_counted_as_they_come(world: World) -> None:
    view = view_of({"name": "string"})
    store = world.store(view, max_bytes=20_000)
    publish(store, planes(100, 1) | {"name": ["x" * 1000] * 100}, view=view)

    told = refresh_here(store, view)

    assert (told.state, told.detail) == ("refused", "its rows take more than max_bytes 20000")


def test_a_replica_damaged_on_disk_is_made_anew(world: World) -> None:
    first = world.store()
    publish(first, planes(1000, 1))
    refresh_here(first)
    folder = first._replicas._shelf("plane").folder
    (rows,) = folder.glob("*/rows.bin")
    content = bytearray(rows.read_bytes())
    content[len(content) // 2] ^= 1
    rows.unlink()
    rows.write_bytes(content)
    store = world.store()

    (told,) = store.refresh(60)

    assert (told.state, told.rows) == ("hydrated", 1000)
    assert seats(store, "N500") == [1]
    assert seats(first, "N500") == [1]


def test_an_older_and_a_newer_process_read_the_same_image_by_name(world: World) -> None:
    old, new = view_of({"seats": "int32"}), view_of({"seats": "int64", "wing_m": "float32"})
    before, after = world.store(old), world.store(new)
    publish(before, planes(10, 4), view=old)
    assert refresh_here(before, old).state == refresh_here(after, new).state == "hydrated"
    assert column(read_rows(after, ["N3"], view=new), "seats").tolist() == [4]
    assert np.isnan(column(read_rows(after, ["N3"], view=new), "wing_m")).all()

    later = planes(10, 5, time_us=JUNE_US + 1) | {"wing_m": np.full(10, 30.0)}
    publish(after, later, view=new)

    # An int64 may not become an int32: the older process keeps what it has and says why.
    told = refresh_here(before, old)
    assert told.state == "refused"
    assert "feature 'seats' is int64 in the image and int32 in the view" in told.detail
    assert seats(before, "N3") == [4]
    assert refresh_here(after, new).state == "hydrated"
    assert column(read_rows(after, ["N3"], view=new), "wing_m").tolist() == [30.0]


def test_a_removed_feature_is_ignored(world: World) -> None:
    old, new = view_of({"seats": "int32", "gone": "string"}), view_of({"seats": "int32"})
    store = world.store(new)
    publish(world.store(old), planes(10, 4) | {"gone": ["x"] * 10}, view=old)

    assert refresh_here(store, new).state == "hydrated"
    assert seats(store, "N1") == [4]


def test_processes_that_refresh_at_once_hydrate_once(world: World) -> None:
    publish(world.store(), planes(2000, 1))
    stores = [world.store() for _ in range(4)]
    told: list[str] = []

    callers = [threading.Thread(target=lambda s=s: told.append(s.refresh(60)[0].state)) for s in stores]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()

    assert sorted(told) == ["current", "current", "current", "hydrated"]
    assert [seats(store, "N7") for store in stores] == [[1]] * 4


def test_older_replicas_go_but_for_those_someone_reads(world: World) -> None:
    reader, store = world.store(), world.store()
    folder = store._replicas._shelf("plane").folder
    names = []
    for day in range(4):
        publish(store, planes(10, day, time_us=JUNE_US + day * DAY_US))
        refresh_here(store)
        names.append(store._replicas._boxes["plane"].current.name)  # type: ignore[union-attr]
        os.utime(folder / names[-1], (0, 0))  # just made ones are spared
        if day == 1:
            assert seats(reader, "N0") == [1]

    left = sorted(path.name for path in folder.iterdir() if path.is_dir())

    # The second has its reader; the third was still mapped by `store` when the fourth came.
    assert left == names[1:]
    assert seats(reader, "N0") == [1]


def test_another_users_cache_folder_is_not_believed(world: World, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    store = world.store(cache_dir=str(tmp_path / "open"))
    publish(store, planes(3, 1))
    refresh_here(store)
    store._replicas._shelf("plane").folder.parent.chmod(0o777)

    (told,) = world.store(cache_dir=str(tmp_path / "open")).refresh(30)

    assert told.state == "refused"
    assert "wants to be ours alone (0700), has mode 777" in told.detail


def test_the_store_of_a_view_says_which_views_it_has(world: World) -> None:
    store = world.store()

    with pytest.raises(RequestError, match="has no view 'train', it has plane"):
        store.refresh(1, views=["train"])
