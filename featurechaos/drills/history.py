"""What happened in a drill: one JSON line for each record, in the order things were written down.

`t` is monotonic seconds since the drill began. A request's `t` is when it was *due*, so that a
load generator held up by a slow answer can't hide it (open loop). Entity keys never come here;
request ids do. Passwords are cut from every line on its way out.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar

from featurechaos.config.secrets import Secrets, cut
from featurechaos.errors import SpecError
from featurechaos.impact.counters import BINS
from featurechaos.model import Cause, Origin

FORMAT = 1
FAULT_STATES = ("armed", "applied", "cleared", "failed", "not_applied", "undo_failed")
END_REASONS = ("done", "not_steady", "guard", "interrupted", "error")
PHASES = ("before", "during", "after")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One thing that happened at `t`."""

    kind: ClassVar[str] = ""
    t: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Start(Record):
    """The first record: what is being played and on what.

    `script` is `Script.as_dict()`; `config` what was in force; `deadline_s` the client's;
    `flip_budget` the monitor's alarm level.
    """

    kind: ClassVar[str] = "start"
    script: dict[str, Any]
    seed: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    began_at: str = ""
    deadline_s: float | None = None
    flip_budget: float | None = None
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase(Record):
    """A phase (before, during, after) begins or ends."""

    kind: ClassVar[str] = "phase"
    phase: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Record):
    """One request, due at `t` and answered at `t_done`.

    `latency_s` is the call's own time, entry to return; `t_done - t` is what a caller saw.
    `rows` counts (view, row) cells of provenance; `origins` and `statuses` split them by name.
    `max_age_s` is the oldest served row's age; None where no row had one.
    """

    kind: ClassVar[str] = "request"
    request_id: str
    t_done: float
    latency_s: float
    ok: bool = True
    late: bool = False
    error: str | None = None
    rows: int = 0
    origins: dict[str, int] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    degraded: int = 0
    injected: int = 0
    max_age_s: float | None = None

    def __post_init__(self) -> None:
        if not self.origins.keys() <= Origin.__members__.keys():
            msg = f"origins wants {', '.join(Origin.__members__)}, got {', '.join(map(str, self.origins))}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair(Record):
    """The predictions of one request that share an origin and a cause, scored on served and on reference.

    `alerts` and `reference_alerts` count scores past the threshold. `served` and `reference` are
    histograms over `BINS` bins of 0..1 as {bin: count}; empty bins are left out.
    """

    kind: ClassVar[str] = "pair"
    request_id: str
    origin: str
    cause: str = "NONE"
    rows: int
    flips: int
    sum_abs_delta: float
    sum_delta: float
    alerts: int = 0
    reference_alerts: int = 0
    served: dict[str, int] = field(default_factory=dict)
    reference: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.origin not in Origin.__members__ or self.cause not in Cause.__members__:
            msg = f"a pair wants an Origin and a Cause by name, got {self.origin!r} and {self.cause!r}"
            raise ValueError(msg)
        if not all(0 <= int(bin_) < BINS for bin_ in (*self.served, *self.reference)):
            msg = f"a pair's histograms have bins 0 to {BINS - 1}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(Record):
    """A fault changed state. `count` is how many reads it has hit, where the fault can tell."""

    kind: ClassVar[str] = "fault"
    name: str
    fault: str
    state: str
    target: str = ""
    detail: str = ""
    count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Record):
    """What a live probe said: the things that a history can't be asked for afterwards."""

    kind: ClassVar[str] = "probe"
    probe: str
    value: float | bool | None
    params: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    ok: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls(Record):
    """Attempts at each source in the `over_s` seconds up to `t`, and the requests they were made for."""

    kind: ClassVar[str] = "calls"
    over_s: float
    requests: int
    calls: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardState(Record):
    """A guard was looked at; `tripped` ends the drill."""

    kind: ClassVar[str] = "guard"
    guard: str
    value: float
    tripped: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note(Record):
    """An event of the client, or of the drill itself (`drill.*`); `count` is how many of them, where that is told."""

    kind: ClassVar[str] = "note"
    event: str
    source: str = ""
    detail: str = ""
    count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class End(Record):
    """The last record. `dropped` counts the requests and pairs past the journal's bound."""

    kind: ClassVar[str] = "end"
    reason: str
    detail: str = ""
    dropped: int = 0


KINDS: dict[str, type[Record]] = {
    record.kind: record for record in (Start, Phase, Request, Pair, Fault, Sample, Calls, GuardState, Note, End)
}


R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class History:
    """All records of one drill. `is_cut`: the last line was half written, as a killed drill leaves it."""

    records: tuple[Record, ...]
    is_cut: bool = False

    def of(self, kind: type[R]) -> list[R]:
        """The records of one kind, in time order."""
        return sorted((one for one in self.records if isinstance(one, kind)), key=lambda one: one.t)

    def lines(self) -> Iterator[str]:
        """The records as JSON lines, in the order they were written down."""
        return map(to_line, self.records)


def to_line(record: Record) -> str:
    """One record as one line, its newline included and passwords cut out of addresses."""
    body: dict[str, Any] = {"t": record.t, "kind": record.kind}
    for each in fields(record):
        value = getattr(record, each.name)
        if each.name != "t" and (each.name == "format" or not _is_default(each, value)):
            body[each.name] = _clean(value)
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False) + "\n"


def from_line(line: str) -> Record:
    """Read one line back; ValueError or TypeError where it is not a record."""
    body = json.loads(line)
    if not isinstance(body, dict) or body.get("kind") not in KINDS:
        msg = f"it is not a record of {', '.join(KINDS)}"
        raise ValueError(msg)
    return KINDS[body.pop("kind")](**body)


def read_history(path: str | Path) -> History:
    """Read a journal. A last line without its end is left out and told as `is_cut`.

    Raises:
        SpecError: naming the line that is not a record.
    """
    records = []
    *lines, rest = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            records.append(from_line(line))
        except (ValueError, TypeError) as error:
            msg = f"{path}: line {number}: {error}"
            raise SpecError(msg) from error
    return History(tuple(records), is_cut=bool(rest))


class HistoryWriter:
    """Appends records to a file, each flushed, so that what a killed drill saw is on disk.

    Safe to share between threads. Past `most` requests and pairs those are only counted: a
    forgotten drill fills no disk, and a verdict on a cut-short journal is inconclusive.
    """

    def __init__(self, path: str | Path, *, most: int = 2_000_000) -> None:
        self._lock = threading.Lock()
        self._most, self._written, self._dropped = most, 0, 0
        self._file: IO[str] = Path(path).open("x", encoding="utf-8")  # noqa: SIM115 - `close` ends it
        self.path = Path(path)

    def add(self, *records: Record) -> None:
        """Write records down; after `close` this does nothing, so that late answers are harmless."""
        # Outside the lock: an End, which counts what was dropped, is the only one that must wait for it.
        lines = [None if isinstance(record, End) else to_line(record) for record in records]
        with self._lock:
            if self._file.closed:
                return
            for record, line in zip(records, lines, strict=True):
                if self._has_room(record):
                    self._file.write(line or to_line(self._counted(record)))
            self._file.flush()

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def __enter__(self) -> HistoryWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _has_room(self, record: Record) -> bool:
        if not isinstance(record, (Request, Pair)):
            return True
        self._written += 1
        self._dropped += self._written > self._most
        return self._written <= self._most

    def _counted(self, record: Record) -> Record:
        return replace(record, dropped=self._dropped) if isinstance(record, End) else record


def redacted(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A config or a script without its secrets: what may stand in a journal."""
    shown: dict[str, Any] = Secrets.of(tree, {}, frozenset()).redacted(tree, ())
    return shown


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return cut(value)
    return {key: _clean(each) for key, each in value.items()} if isinstance(value, dict) else value


def _is_default(each: Field[Any], value: object) -> bool:
    if each.default_factory is not MISSING:
        return bool(value == each.default_factory())
    # `1 == True`: a sample of True must not pass for a default of 1, nor 0.0 for False.
    return type(value) is type(each.default) and value == each.default
