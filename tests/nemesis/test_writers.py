"""Who writes: what a store did not take is written again, as a pipeline does that hears of it."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from featurechaos.errors import PartialWrite
from featurechaos.stores import WriteCounts, WriteReport
from tests.nemesis.history import WRITES, whole
from tests.nemesis.stored import KINDS, PRIMARY, REPLICA
from tests.nemesis.writers import Office

_BACKFILLER = 9


class JustBack:
    """A client whose primary refuses the first writes."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    def write_to_online_store(self, view: str, table: Any) -> WriteReport:
        n = len(table["stamp"])
        report = WriteReport(view, n, {PRIMARY: WriteCounts(written=n), REPLICA: WriteCounts(written=n)})
        if self.refusals:
            self.refusals -= 1
            report.sources[PRIMARY] = WriteCounts(failed=n, error="connection refused")
            raise PartialWrite("primary: connection refused", report=report)
        return report


class Impatient:
    """An event that nobody waits for."""

    def wait(self, _: float) -> bool:
        return False


def test_a_backfill_ends_when_every_store_has_every_row(tmp_path: Path) -> None:
    client: Any = JustBack(refusals=3)
    office = Office(tmp_path, {1: client, 2: client}, seed=7)
    office.stop = Impatient()  # type: ignore[assignment]

    office._write_all(office._authors[_BACKFILLER], Random(7))
    office.close()

    written = whole(tmp_path / f"writer{_BACKFILLER}.writes", WRITES)
    for kind in KINDS:
        if kind.name != "marker":
            mine = written[written["view"] == kind.number]
            assert mine["primary"].any(), kind.name
            assert set(mine["key"]) == set(mine["key"][mine["primary"]]), kind.name
    assert not written["primary"].all()  # what was refused is told, too
