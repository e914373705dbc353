"""What happened, as everyone wrote it down while it happened: records on disk, and the whole of them to judge.

ACTOR.requests, ACTOR.rows   what a reader was answered (binary, `REQUESTS` and `ROWS`; an actor is a client)
ACTOR.notes                  lines of JSON: exceptions, samples, what was left behind at the end
NAME.writes                  what a writer wrote, by its own account (`WRITES`)
SOURCE.wire                  what a proxy carried
run.json                     the seed, the strikes as they were played, stalls of the machine, the policy promised
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.nemesis.stored import KIND, cell, digest

Table = NDArray[Any]

REQUESTS = np.dtype(
    [
        ("id", "<u8"), ("began", "<f8"), ("ended", "<f8"), ("wall_before", "<f8"), ("wall_after", "<f8"),
        ("deadline_s", "<f8"), ("max_age_s", "<f8"), ("gave_up", "<f8"), ("kind", "u1"), ("outcome", "u1"),
        ("rows", "<u2"),
    ]
)  # fmt: skip
"""One call: its own number; when it began and ended by the reader's clocks; what it asked for; how it ended.

`gave_up` is when the reader cancelled it, NaN where it did not; `max_age_s` NaN where none was given.
"""
ROWS = np.dtype(
    [
        ("view", "u1"), ("at", "u1"), ("key", "<i4"), ("origin", "u1"), ("status", "u1"), ("cause", "u1"),
        ("injected", "?"), ("degraded", "?"), ("event_time", "<i8"), ("age_s", "<f8"),
        ("stamp", "<i8"), ("digest", "<u8"),
    ]
)  # fmt: skip
"""One row of one view of an answer, in the order of the requests: what was claimed of it.

`at` is the place of its entity in the request, `EVERY` for the marker's; `degraded` is of the whole entity row.
"""
EVERY = 255
WRITES = np.dtype(
    [
        ("view", "u1"), ("key", "<i4"), ("event_time", "<i8"), ("generation", "u1"), ("kind", "u1"),
        ("began", "<f8"), ("ended", "<f8"), ("primary", "?"), ("replica", "?"),
    ]
)  # fmt: skip
"""One row that was written: by a call that ran from `began` to `ended`, and who took it for certain.

Of a tombstone `event_time` is the earliest that it can have.
"""

ACTOR_BITS = 40
"""A request's number is its actor's number and then its own."""
PLAIN, WRONG, RAISING = range(3)
"""Kinds of request: as any; one that is the caller's mistake; one that wants to be told of exhausted rows."""
ANSWERED, EXHAUSTED, CANCELLED, REFUSED, FAILED = range(5)
"""How a request ended."""
ROW, TOMBSTONE, IMAGE = range(3)
"""Kinds of write."""


class Records:
    """A file of records of one dtype, added to as the run goes; thread-safe."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=1 << 16)
        self._lock = threading.Lock()

    def add(self, records: Table) -> None:
        with self._lock:
            self._file.write(records.tobytes())

    def close(self) -> None:
        self._file.close()


class Diary:
    """What one reader was answered, written down as soon as it was; thread-safe."""

    def __init__(self, folder: Path, actor: str, generation: int) -> None:
        self.actor, self.generation = actor, generation
        self._requests = (folder / f"{actor}.requests").open("wb", buffering=1 << 16)
        self._rows = (folder / f"{actor}.rows").open("wb", buffering=1 << 18)
        self._notes = (folder / f"{actor}.notes").open("w", buffering=1)
        self._lock = threading.Lock()

    def note(self, what: str, **about: Any) -> None:
        """Keep something that is no answer."""
        with self._lock:
            self._notes.write(json.dumps({"what": what, **about}) + "\n")

    def answered(self, request: Table, keys: Sequence[int], response: Any) -> None:
        """Keep a call and, if it was answered, every row of it; `request` is one record."""
        rows = b"" if response is None else self._rows_of(int(request["id"][0]), keys, response)
        request["rows"] = len(rows) // ROWS.itemsize
        with self._lock:
            self._requests.write(request.tobytes())
            self._rows.write(rows)

    def close(self) -> None:
        for file in (self._requests, self._rows, self._notes):
            file.close()

    def _rows_of(self, number: int, keys: Sequence[int], response: Any) -> bytes:
        n, degraded = len(keys), response.degraded
        tables = []
        for name in response.views:
            kind = KIND[name]
            truth = response.provenance(name)
            table = np.empty(n, ROWS)
            table["view"], table["at"] = kind.number, np.arange(n)
            table["key"] = keys if name != "marker" else number & 0x7FFFFFFF
            for fact in ("origin", "status", "cause", "injected", "event_time", "age_s"):
                table[fact] = getattr(truth, fact)
            table["degraded"] = degraded
            if name == "marker":
                nulls = response.nulls["marker:seen"]
                table["stamp"], table["digest"], table["at"] = ~nulls, nulls, EVERY
                table = table[:1]
            else:
                features = kind.of(self.generation).items()
                columns = [_cells(response, f"{name}:{feature}", about["dtype"]) for feature, about in features]
                table["stamp"] = response.columns[f"{name}:stamp"]
                table["digest"] = [digest(cells) for cells in zip(*columns, strict=True)]
            tables.append(table.tobytes())
        return b"".join(tables)


def _cells(response: Any, reference: str, dtype: str) -> list[bytes | None]:
    """A column's cells as bytes."""
    column, nulls = response.columns[reference], response.nulls[reference].tolist()
    if column.dtype == object:
        return [None if null else cell(dtype, one) for one, null in zip(column, nulls, strict=True)]
    whole, size = column.tobytes(), column.dtype.itemsize * (column.shape[1] if column.ndim > 1 else 1)
    return [None if null else whole[at * size : (at + 1) * size] for at, null in enumerate(nulls)]


@dataclass(frozen=True)
class Told:
    """One actor's part: its requests, the rows of them in order, its notes, the generation of its schema."""

    actor: str
    requests: Table
    rows: Table
    notes: tuple[Mapping[str, Any], ...] = ()
    generation: int = 1

    @property
    def is_child(self) -> bool:
        """Whether it was forked, to read a little and end."""
        return any(note["what"] == "opened" and note.get("child") for note in self.notes)

    @property
    def hedges(self) -> bool:
        """Whether its client asks the replica too where the primary is slower than usual."""
        return any(note["what"] == "opened" and note.get("hedges") for note in self.notes)

    @property
    def of_row(self) -> NDArray[np.intp]:
        """The request of each row."""
        return np.repeat(np.arange(len(self.requests)), self.requests["rows"])


@dataclass(frozen=True)
class Struck:
    """One fault as it was played, in monotonic seconds.

    It was in force at the latest from `gone` and at the earliest until `healing`; all was well again at `healed`.
    `applied`: how often it took effect, as far as who played it can tell.
    """

    fault: str
    target: str
    began: float
    gone: float
    healing: float
    healed: float
    applied: int
    about: str = ""

    def hits(self, source: str) -> bool:
        return self.target in (source, "both")


@dataclass(frozen=True)
class Sent:
    """What a proxy saw of one read: its number, when, and whether it was sent (True) or cut off (False)."""

    source: str
    number: int
    at: float
    is_sent: bool


@dataclass(frozen=True)
class History:
    """A whole run, for the checker."""

    seed: int
    seconds: float
    told: tuple[Told, ...]
    writes: Table
    strikes: tuple[Struck, ...]
    sent: tuple[Sent, ...] = ()
    stalls: Mapping[str, Mapping[int, Sequence[tuple[float, float]]]] = field(default_factory=dict)
    """When the machine stood still, by the bare processes beside each reader, one a core."""
    ends: tuple[Mapping[str, Any], ...] = ()
    """How each process ended and what was open afterwards, as the conductor saw it."""
    unplayed: tuple[str, ...] = ()
    """Strikes that could not be played, and why."""
    queued_share: float = 0.0
    """The share of the run in which somebody was ready to run and had no core, by the kernel's count."""

    @classmethod
    def read(cls, folder: Path) -> History:
        """What a run left behind."""
        run = json.loads((folder / "run.json").read_text())
        return cls(
            seed=run["seed"],
            seconds=run["seconds"],
            told=tuple(_told(path) for path in sorted(folder.glob("*.notes"))),
            writes=_writes(folder),
            strikes=tuple(Struck(**one) for one in run["strikes"]),
            sent=tuple(one for path in sorted(folder.glob("*.wire")) for one in _sent(path)),
            stalls=_stalls(folder),
            ends=tuple(run["ends"]),
            unplayed=tuple(run["unplayed"]),
            queued_share=run.get("queued_share", 0.0),
        )


def saved(folder: Path, **run: Any) -> None:
    """Write what the conductor knows."""
    (folder / "run.json").write_text(json.dumps(run))


def _told(path: Path) -> Told:
    notes = tuple(json.loads(line) for line in path.read_text().splitlines() if line.endswith("}"))
    requests = whole(path.with_suffix(".requests"), REQUESTS)
    rows = whole(path.with_suffix(".rows"), ROWS)
    generation = next((int(note["generation"]) for note in notes if note["what"] == "opened"), 1)
    return Told(path.stem, requests, rows, notes, generation)


def _stalls(folder: Path) -> dict[str, dict[int, list[tuple[float, float]]]]:
    stalls: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for path in sorted(folder.glob("*.stalls")):
        actor, core = path.stem.split(".")
        spans = [line.split() for line in path.read_text().splitlines()]
        stalls.setdefault(actor, {})[int(core)] = [(float(one[0]), float(one[1])) for one in spans if len(one) == 2]
    return stalls


def _writes(folder: Path) -> Table:
    tables = [whole(path, WRITES) for path in sorted(folder.glob("*.writes"))]
    return np.concatenate(tables) if tables else np.empty(0, WRITES)


def whole(path: Path, dtype: np.dtype[Any]) -> Table:
    """The records of a file; one cut off by a killed process is left out."""
    content = path.read_bytes() if path.exists() else b""
    return np.frombuffer(content[: len(content) // dtype.itemsize * dtype.itemsize], dtype)


def _sent(path: Path) -> list[Sent]:
    found = []
    for line in path.read_text().splitlines():
        what, number, at = line.split()
        found.append(Sent(path.stem, int(number), float(at), what == "sent"))
    return found
