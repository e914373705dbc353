"""Last-known rows on disk: what the next process finds, and that nothing damaged, stale or deleted is ever among it."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import struct
import subprocess
import sys
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from featurechaos import memory as memory_of_rows
from featurechaos.keepsakes import Keepsakes, read, write
from featurechaos.memory import Keep, LastKnown
from featurechaos.testing import ManualClock
from tests.layers.kit import VIEW, add_rows, ask_of
from tests.layers.kit import rows_of as store_of

LAYOUT = 7
KEEP = Keep(900, 8000)


def blobs_of(clock: ManualClock, values: dict[int, float], age_s: float = 1.0) -> dict[bytes, bytes]:
    store = add_rows(store_of(clock, {}), clock, values, age_s=age_s)
    return {ask_of([key]).keys.ids[0]: store.rows[VIEW.head + b"%d" % key][-1] for key in values}


class Process:
    """A process that remembers, with its part of the folder."""

    def __init__(self, folder: Path, clock: ManualClock, keep: Keep = KEEP) -> None:
        self.clock, self.memory = clock, LastKnown(clock, {"v": keep})
        self.kept = Keepsakes(folder, self.memory, clock, {"v": LAYOUT})

    def reads(self, values: dict[int, float], age_s: float = 1.0) -> None:
        rows = blobs_of(self.clock, values, age_s)
        self.memory.keep(("v",), list(rows), [list(rows.values())])

    def has(self, *keys: int) -> list[bool]:
        return [blob is not None for blob in self.memory.find("v", [b"%d" % key for key in keys])]


def test_what_one_process_read_the_next_one_has(tmp_path: Path) -> None:
    clock = ManualClock()
    first = Process(tmp_path, clock)
    first.reads({key: float(key) for key in range(100)})
    first.kept.step()

    second = Process(tmp_path, clock)
    second.kept.load()

    ids = [b"%d" % key for key in range(101)]
    assert second.memory.find("v", ids) == first.memory.find("v", ids)
    assert second.has(99, 100) == [True, False]


def test_a_process_that_ends_leaves_what_it_read_last(tmp_path: Path) -> None:
    clock = ManualClock()
    first = Process(tmp_path, clock)
    first.kept.step()
    first.reads({1: 1.0})

    first.kept.close()
    second = Process(tmp_path, clock)
    second.kept.load()

    assert second.has(1) == [True]


def test_rows_are_kept_for_their_time_across_a_restart(tmp_path: Path) -> None:
    clock = ManualClock()
    first = Process(tmp_path, clock)
    first.reads({1: 1.0})
    first.kept.close()

    clock.advance(500)
    second = Process(tmp_path, clock)
    second.kept.load()
    young = second.has(1)
    clock.advance(401)
    old = second.has(1)
    third = Process(tmp_path, clock)
    third.kept.load()

    assert (young, old, third.has(1)) == ([True], [False], [False])


@pytest.mark.parametrize("jump_s", [-3600, 3600])
def test_a_clock_that_jumped_makes_nothing_younger(tmp_path: Path, jump_s: float) -> None:
    clock = ManualClock()
    first = Process(tmp_path, clock)
    first.reads({1: 1.0})
    first.kept.close()

    clock.jump(jump_s)
    second = Process(tmp_path, clock)
    second.kept.load()

    assert second.has(1) == [False]


def test_generations_are_written_once_and_go_when_they_are_over(tmp_path: Path) -> None:
    clock = ManualClock()
    process = Process(tmp_path, clock)
    numbers = []
    for turn in range(20):
        process.reads({turn: 1.0})
        process.kept.step()
        numbers.append({path.name: path.stat().st_ino for path in tmp_path.glob("*.rows")})
        clock.advance(KEEP.keep_s / 8 + 1)

    assert max(map(len, numbers)) == 8
    for before, after in pairwise(numbers):
        rewritten = [name for name in before if before[name] != after.get(name)]
        assert len(rewritten) <= 1, "each is written anew only as it changes"
    clock.advance(KEEP.keep_s)
    process.kept.step()
    assert list(tmp_path.glob("*.rows")) == []


def test_one_process_writes_and_another_takes_over(tmp_path: Path) -> None:
    clock = ManualClock()
    first, second = Process(tmp_path, clock), Process(tmp_path, clock)
    first.reads({1: 1.0})
    second.reads({2: 2.0})
    first.kept.step()
    second.kept.step()
    while_both = Process(tmp_path, clock)
    while_both.kept.load()

    first.kept.close()
    second.kept.step()
    after = Process(tmp_path, clock)
    after.kept.load()

    assert while_both.has(1, 2) == [True, False]
    assert after.has(2) == [True]


def test_a_deleted_row_does_not_come_back_whoever_deleted_it(tmp_path: Path) -> None:
    clock = ManualClock()
    first, second = Process(tmp_path, clock), Process(tmp_path, clock)
    first.reads({1: 1.0, 2: 2.0})
    first.kept.step()
    at = int(clock.wall() * 1e6)

    second.kept.bury("v", [b"1"], [at])
    at_once = Process(tmp_path, clock)
    at_once.kept.load()
    first.kept.step()

    assert at_once.has(1, 2) == [False, True], "though the writer has not written since"
    assert first.has(1, 2) == [False, True], "it hears of it, too"


def test_deletions_are_heard_of_a_new_file_in_the_place_of_a_long_one(tmp_path: Path) -> None:
    clock = ManualClock()
    first, second = Process(tmp_path, clock), Process(tmp_path, clock)
    first.reads({key: float(key) for key in range(60)})
    second.kept.bury("v", [b"%d" % key for key in range(50)], [10**18] * 50)
    first.kept.step()
    assert first.has(49, 50, 51) == [False, True, True]

    os.truncate(tmp_path / "v.deleted", 0)  # as one that was removed and made again with the same number
    second.kept.bury("v", [b"50"], [10**18])
    first.kept.step()

    assert first.has(49, 50, 51) == [False, False, True]


def test_a_deletion_after_a_line_that_was_cut_off_is_heard(tmp_path: Path) -> None:
    clock = ManualClock()
    first, second = Process(tmp_path, clock), Process(tmp_path, clock)
    first.reads({1: 1.0, 2: 2.0, 3: 3.0})
    first.kept.step()
    second.kept.bury("v", [b"1"], [10**18])
    with (tmp_path / "v.deleted").open("ab") as file:
        file.write(b"77 10")  # as a full disk leaves it
    first.kept.step()

    second.kept.bury("v", [b"2"], [10**18])
    at_once = Process(tmp_path, clock)
    at_once.kept.load()

    assert at_once.has(1, 2, 3) == [False, False, True]


def test_one_that_was_dropped_unclosed_lets_another_write(tmp_path: Path) -> None:
    clock = ManualClock()
    first = Process(tmp_path, clock)
    first.kept.step()
    del first
    gc.collect()

    second = Process(tmp_path, clock)
    second.reads({1: 1.0})
    second.kept.step()

    assert list(tmp_path.glob("*.rows"))


def test_a_row_written_after_it_was_deleted_is_kept(tmp_path: Path) -> None:
    clock = ManualClock()
    first = Process(tmp_path, clock)
    first.kept.bury("v", [b"1"], [int((clock.wall() - 50) * 1e6)])
    first.kept.load()
    first.reads({1: 1.0})
    first.kept.step()

    second = Process(tmp_path, clock)
    second.kept.load()

    assert second.has(1) == [True]


def test_rows_that_were_dropped_are_dropped_on_disk(tmp_path: Path) -> None:
    clock = ManualClock()
    first = Process(tmp_path, clock)
    first.reads({1: 1.0, 2: 2.0})
    first.kept.step()
    first.memory.forget("v", [b"1"])
    first.kept.step()

    second = Process(tmp_path, clock)
    second.kept.load()

    assert second.has(1, 2) == [False, True]


def test_a_view_of_another_schema_finds_nothing(tmp_path: Path) -> None:
    clock = ManualClock()
    first = Process(tmp_path, clock)
    first.reads({1: 1.0})
    first.kept.close()

    memory = LastKnown(clock, {"v": KEEP})
    Keepsakes(tmp_path, memory, clock, {"v": LAYOUT + 1}).load()

    assert memory.find("v", [b"1"]) == [None]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.data())
def test_any_damage_is_seen_and_costs_only_what_is_damaged(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "v.0.rows"
    write(path, "v", LAYOUT, 5.0, {b"%d" % key: b"x" * key for key in range(30)})
    content = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["flip", "cut", "more", "other"]))
    at = data.draw(st.integers(0, len(content) - 1))
    if kind == "flip":
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del content[at:]
    elif kind == "more":
        content += data.draw(st.binary(min_size=1, max_size=20))
    else:
        content = bytearray(data.draw(st.binary(max_size=200)))
    path.write_bytes(content)

    with pytest.raises(ValueError, match=r"."):
        read(path, "v", LAYOUT)
    clock = ManualClock()
    process = Process(tmp_path, clock)
    process.kept.load()
    assert process.has(1) == [False]


def sealed(header: bytes, rest: bytes = b"") -> bytes:
    """A file whose checksum holds, whatever its header says."""
    content = b"FCKEEP1\n" + struct.pack("<I", len(header)) + header + rest
    return content + struct.pack("<I", zlib.crc32(content))


SAID = {"view": "v", "layout": LAYOUT, "begun": 5.0, "rows": 0}
ODD = st.one_of(
    st.none(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3), st.sampled_from(["9" * 5000, [], {}])
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@example(header=b"[" * 4096, rest=b"")
@example(header=json.dumps(SAID | {"rows": float("inf")}).encode(), rest=b"")
@example(header=json.dumps(SAID | {"rows": 10**30}).encode(), rest=b"")
@example(header=json.dumps(SAID | {"rows": -1}).encode(), rest=b"x" * 16)
@example(header=json.dumps(SAID | {"begun": 10**400}).encode(), rest=b"")
@given(
    header=st.binary(max_size=40)
    | st.builds(lambda name, odd: json.dumps(SAID | {name: odd}).encode(), st.sampled_from(sorted(SAID)), ODD),
    rest=st.binary(max_size=40),
)
def test_any_header_is_believed_or_one_error_though_its_checksum_holds(
    tmp_path: Path, header: bytes, rest: bytes
) -> None:
    path = tmp_path / "v.0.rows"
    path.write_bytes(sealed(header, rest))

    try:
        _, rows = read(path, "v", LAYOUT)
        assert sum(map(len, rows)) <= len(rest)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - both ways are good
    Process(tmp_path, ManualClock()).kept.step()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(lines=b"2 " + b"9" * 5000 + b"\n")
@example(lines=b"\xff %zz 7\n2 --7\n2 -\n")
@given(lines=st.binary(max_size=60) | st.text("0123456789% -\n", max_size=60).map(str.encode))
def test_any_list_of_deletions_costs_none_that_it_does_not_name(tmp_path: Path, lines: bytes) -> None:
    for left in tmp_path.iterdir():
        left.unlink()
    first = Process(tmp_path, ManualClock())
    first.reads({1000001: 1.0})
    first.kept.step()
    first.kept.close()
    (tmp_path / "v.deleted").write_bytes(lines)

    second = Process(tmp_path, ManualClock())
    second.kept.step()

    assert second.has(1000001) == [True] or b"1000001" in lines


@given(rows=st.dictionaries(st.binary(max_size=9), st.binary(max_size=30), max_size=20), begun=st.floats(0, 2e9))
def test_there_and_back(tmp_path_factory: pytest.TempPathFactory, rows: dict[bytes, bytes], begun: float) -> None:
    path = tmp_path_factory.mktemp("there") / "file"
    write(path, "a view", LAYOUT, begun, rows)

    assert read(path, "a view", LAYOUT) == (begun, rows)


def test_files_are_ours_alone(tmp_path: Path) -> None:
    process = Process(tmp_path, ManualClock())
    process.reads({1: 1.0})
    process.kept.bury("v", [b"9"], [1])
    process.kept.step()

    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    assert len(list(tmp_path.iterdir())) == 4


KILLED = """
import sys
from pathlib import Path
from featurechaos.keepsakes import write
print("writing", flush=True)
for turn in range(10**9):
    rows = {b"%d" % k: b"%d/%d|" % (turn, k) * 200 for k in range(3000)}
    write(Path(sys.argv[1]) / f"v.{turn % 2}.rows", "v", 7, float(turn), rows)
"""


def test_killed_in_the_middle_of_a_write_it_leaves_whole_files_or_none(tmp_path: Path) -> None:
    for number in range(8):
        with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            while number and not list(tmp_path.glob(".making-*")):
                pass
            os.kill(process.pid, signal.SIGKILL)
        for path in tmp_path.glob("*.rows"):
            begun, rows = read(path, "v", LAYOUT)
            assert all(blob == b"%d/%d|" % (begun, int(key)) * 200 for key, blob in rows.items())
            assert len(rows) == 3000


def test_a_disk_that_takes_nothing_is_told_once_and_all_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(tmp_path, ManualClock())
    process.reads({1: 1.0})

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("featurechaos.keepsakes.os.fsync", full)
        waits = [process.kept.step() for _ in range(3)]
    left = list(tmp_path.glob(".making-*")) + list(tmp_path.glob("*.rows"))
    process.kept.step()
    after = Process(tmp_path, ManualClock())
    after.kept.load()

    assert len(caplog.messages) == 1
    assert left == []
    assert min(waits) >= 5
    assert after.has(1) == [True]


def test_what_a_killed_writer_left_half_done_goes(tmp_path: Path) -> None:
    (tmp_path / ".making-x").write_bytes(b"half")

    Process(tmp_path, ManualClock()).kept.step()

    assert not (tmp_path / ".making-x").exists()


def test_memory_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_of_rows, "MOST_BYTES", 8 << 20)
    clock = ManualClock()
    memory = LastKnown(clock, {"v": Keep(900, 1_000_000)})
    for turn in range(100):
        memory.keep(("v",), [b"%d" % key for key in range(turn * 100, turn * 100 + 100)], [[b"x" * 4000] * 100])

    assert 8 << 20 >= memory.size("v") * 4000 > 4 << 20
    assert memory.find("v", [b"9999", b"0"]) == [b"x" * 4000, None]
