"""The small files that say what is in a bucket."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurechaos.errors import DecodeError
from featurechaos_s3.manifest import (
    Current,
    Manifest,
    Part,
    instant,
    is_at_or_before,
    is_snapshot_id,
    safe_name,
    snapshot_id,
)

TIMES = st.integers(min_value=-30_610_224_000_000_000, max_value=253_402_300_799_999_999)
WHOLE = Manifest(
    project="flights",
    view="plane",
    snapshot="20130901T050000.000000Z-1f0c9a2b",
    as_of_us=1_378_011_600_000_000,
    newest_event_us=1_378_011_500_000_000,
    created_us=1_378_011_700_000_000,
    rows=2,
    schema={"features": []},
    schema_hash="00000000000000ff",
    parts=(Part("part-00000.parquet", 10, '"e"', "ab" * 32, 2),),
)


def test_id_is_the_date_and_the_content() -> None:
    assert snapshot_id(1_378_011_600_000_000, "1f0c9a2bffff") == "20130901T050000.000000Z-1f0c9a2b"
    assert instant(1_378_011_600_000_001) == "2013-09-01T05:00:00.000001Z"


@given(first=TIMES, second=TIMES)
def test_ids_sort_as_their_dates(first: int, second: int) -> None:
    one, other = snapshot_id(first, "0" * 8), snapshot_id(second, "0" * 8)

    assert (one < other) == (first < second)
    assert is_snapshot_id(one)
    assert is_at_or_before(one, second) == (first <= second)


@pytest.mark.parametrize("time_us", [-(2**63), 2**63 - 1])
def test_a_time_no_calendar_has_still_gets_a_name(time_us: int) -> None:
    assert is_snapshot_id(snapshot_id(time_us, "0" * 8))


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "plane", "Ä b", ""])
def test_a_view_of_any_name_is_one_folder_of_its_own(name: str) -> None:
    assert "/" not in safe_name(name)
    assert not safe_name(name).startswith(".")


def test_manifest_and_current_come_back_as_they_were() -> None:
    current = Current(WHOLE.snapshot, WHOLE.as_of_us, "00" * 32)

    assert Manifest.from_json(WHOLE.to_json(), place="m") == WHOLE
    assert Current.from_json(current.to_json(), place="c") == current


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "wants format 1, has '2'"),
        ({"rows": 3}, "says 3 rows, its parts have 2"),
        ({"rows": "2"}, "rows wants int, has str"),
        ({"snapshot": "../../etc"}, "names an image or a part"),
        ({"parts": [{"name": "../x", "size_bytes": 1, "etag": "e", "sha256": "s", "rows": 2}]}, "names an image"),
        ({"parts": [7]}, "not a manifest"),
        ({"parts": None}, "not a manifest"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused_by_name(change: dict[str, Any], says: str) -> None:
    said = json.loads(WHOLE.to_json()) | change

    with pytest.raises(DecodeError, match=says):
        Manifest.from_json(json.dumps(said).encode(), place="manifest.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["format", "parts", "rows", "x"]), inner)
    ),
    max_leaves=10,
)


@given(said=JSON)
def test_any_other_json_is_refused_and_never_anything_else(said: object) -> None:
    for read in (Manifest.from_json, Current.from_json):
        with pytest.raises(DecodeError):
            read(json.dumps(said).encode(), place="file")


@given(content=st.binary(max_size=60))
def test_any_bytes_are_refused_and_never_anything_else(content: bytes) -> None:
    for read in (Manifest.from_json, Current.from_json):
        with pytest.raises(DecodeError):
            read(content, place="file")
