"""What the demo says of where rows came from."""

from __future__ import annotations

from featurechaos.demo.story import _shares


def test_rows_from_nowhere_are_explained_by_the_snapshot_only_where_there_is_one() -> None:
    assert _shares({"NONE": 2, "SNAPSHOT": 98}) == ("SNAPSHOT 98.0 %, nowhere (planes that no snapshot has seen) 2.0 %")
    assert _shares({"NONE": 10}) == "nowhere 100.0 %"
