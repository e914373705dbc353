"""Writing and deleting: what is refused before anything is written, what wins, and what is told."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import BaseModel

from featurechaos import AsyncFeatureClient, FeatureClient, Origin, PartialWrite, RequestError, SpecError
from featurechaos.config import load
from featurechaos.errors import StoreRefused, StoreTimeout, StoreUnavailable
from featurechaos.stores import Batch, Refreshed, WriteCounts
from featurechaos.testing import ManualClock, MemoryStore
from tests.serving.kit import CLOCK_S, CONFIG, NOW, client_of, store_of, write

TABLE: dict[str, Any] = {"k": [1, 2], "f": [1.5, None], "g": [10, 20], "event_timestamp": [NOW, NOW]}


def values(client: Any, *keys: int) -> list[Any]:
    return client.get_online_features(["v:f"], {"k": list(keys)}).to_dict()["f"]  # type: ignore[no-any-return]


TABLES: dict[str, Callable[[], Any]] = {
    "dict": lambda: TABLE,
    "pandas": lambda: pd.DataFrame(TABLE),
    "arrow": lambda: pa.table(TABLE),
    "numpy": lambda: {
        "k": np.array([1, 2], np.int32),
        "f": np.array([1.5, np.nan], np.float32),
        "g": np.array([10, 20]),
        "event_timestamp": np.array([NOW.replace(tzinfo=None)] * 2, "M8[ns]"),
    },
    "other order": lambda: dict(reversed(list(TABLE.items()))),
}


@pytest.mark.parametrize("form", TABLES)
def test_a_table_may_come_in_any_form(form: str) -> None:
    client = client_of()

    report = client.write_to_online_store("v", TABLES[form]())

    assert (report.view, report.rows, report.is_complete) == ("v", 2, True)
    assert report.sources == {"primary": WriteCounts(written=2)}
    assert report.watermark_us == int(CLOCK_S * 1e6)
    assert values(client, 1, 2) == [1.5, None]


@pytest.mark.parametrize(
    "at",
    [
        NOW,
        NOW.replace(tzinfo=None),
        NOW.astimezone(dt.timezone(dt.timedelta(hours=9))),
        pd.Timestamp(NOW),
        np.datetime64(int(CLOCK_S), "s"),
        np.datetime64(int(CLOCK_S * 1e9), "ns"),
    ],
    ids=["aware", "naive", "elsewhere", "pandas", "numpy s", "numpy ns"],
)
def test_an_event_time_is_utc_however_it_is_written(at: Any) -> None:
    client = client_of()
    write(client, k=[1], f=[1.0], g=[1], at=at)

    assert client.get_online_features(["v:f"], {"k": [1]}).provenance("v").event_time.tolist() == [int(CLOCK_S * 1e6)]


WRONG: list[tuple[str, Any, str]] = [
    ("x", TABLE, "there is no view 'x'; the config has v, w, text, all, other_v"),
    ("other_v", TABLE, "view 'other_v' is another name of 'v'; write to that"),
    ("v", 5, "view 'v' wants a pandas or pyarrow table or a dict of columns, got int"),
    ("v", None, "view 'v' wants a pandas or pyarrow table or a dict of columns, got NoneType"),
    ("v", [{"k": 1}], "view 'v' wants a pandas or pyarrow table or a dict of columns, got list"),
    (
        "v",
        {"k": [1], "f": [1.0]},
        "view 'v' wants the columns k, f, g, event_timestamp; the table lacks 'g', 'event_timestamp'",
    ),
    (
        "v",
        TABLE | {"extra": [1, 2]},
        "view 'v' wants the columns k, f, g, event_timestamp; the table has 'extra' which the view has not",
    ),
    (
        "v",
        pd.DataFrame([[1, 1.0, 1, 1, NOW]], columns=["k", "f", "g", "g", "event_timestamp"]),
        "view 'v' wants each column once, the table has 'g' more than once",
    ),
    (
        "v",
        TABLE | {"k": [1]},
        "view 'v' wants columns of one length, got {'k': 1, 'f': 2, 'g': 2, 'event_timestamp': 2}",
    ),
    ("v", TABLE | {"k": 1}, "view 'v', column 'k': wanted a list or an array of values, got 1"),
    ("v", TABLE | {"f": "ab"}, "view 'v', column 'f': wanted a list or an array of values, got 'ab'"),
    ("v", TABLE | {"k": [1, None]}, "view 'v' wants a join key in every row to write, row 1 has a null one"),
    ("v", TABLE | {"k": [1, "x"]}, "key 'k' row 1 wants int64, got 'x'"),
    (
        "v",
        TABLE | {"event_timestamp": [NOW, None]},
        "view 'v', column 'event_timestamp', row 1: wanted a time, got null",
    ),
    (
        "v",
        TABLE | {"event_timestamp": [NOW, "yesterday"]},
        (
            "view 'v', column 'event_timestamp', row 1: wanted a datetime, numpy.datetime64 or pandas.Timestamp, "
            "got 'yesterday'"
        ),
    ),
    (
        "v",
        TABLE | {"event_timestamp": [NOW, NOW + dt.timedelta(seconds=61)]},
        "view 'v', row 1: wanted an event time at most 60 s ahead of the clock, got one 61 s ahead",
    ),
]


@pytest.mark.parametrize(("view", "table", "sentence"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_table_is_refused_before_anything_is_written(view: str, table: Any, sentence: str) -> None:
    client = client_of()

    with pytest.raises(RequestError) as caught:
        client.write_to_online_store(view, table)

    assert str(caught.value) == sentence
    assert not store_of(client).rows


@pytest.mark.parametrize(("column", "bad"), [("f", ["1.5", 2.0]), ("g", [1.5, 2]), ("g", [2**31, 2])])
def test_a_wrong_value_names_its_feature_and_writes_nothing(column: str, bad: list[Any]) -> None:
    client = client_of()

    with pytest.raises(RequestError, match=rf"view 'v'.*'{column}'.*row 0"):
        client.write_to_online_store("v", TABLE | {column: bad})

    assert not store_of(client).rows


def test_a_row_up_to_a_minute_ahead_is_taken() -> None:
    client = client_of()
    write(client, k=[1], f=[1.0], g=[1], at=NOW + dt.timedelta(seconds=60))

    truth = client.get_online_features(["v:f"], {"k": [1]}).provenance("v")

    assert truth.age_s.tolist() == [0.0]


def test_the_newest_event_time_wins_and_a_tie_goes_to_the_later_write() -> None:
    client = client_of()
    write(client, k=[1, 2, 3], f=[1.0, 1.0, 1.0], g=[1, 1, 1])
    second = dt.timedelta(seconds=1)

    report = client.write_to_online_store(
        "v", {"k": [1, 2, 3], "f": [2.0] * 3, "g": [2] * 3, "event_timestamp": [NOW - second, NOW, NOW + second]}
    )

    assert report.sources["primary"] == WriteCounts(written=2, older=1)
    assert report.is_complete, "an older row is no failure"
    assert values(client, 1, 2, 3) == [1.0, 2.0, 2.0]


def test_of_rows_with_one_key_the_newest_is_written_and_on_a_tie_the_last() -> None:
    client = client_of()
    second = dt.timedelta(seconds=1)

    report = client.write_to_online_store(
        "v",
        {
            "k": [1, 2, 1, 2, 1],
            "f": [1.0, 2.0, 3.0, 4.0, 5.0],
            "g": [0] * 5,
            "event_timestamp": [NOW, NOW, NOW + second, NOW, NOW - second],
        },
    )

    assert report.sources["primary"].written == report.rows == 2
    assert values(client, 1, 2) == [3.0, 4.0]


def test_an_empty_table_writes_nothing() -> None:
    report = client_of().write_to_online_store("v", {"k": [], "f": [], "g": [], "event_timestamp": []})

    assert (report.rows, report.watermark_us, report.is_complete) == (0, None, True)


def test_what_was_written_is_read_and_not_what_was_remembered() -> None:
    client = client_of(policy={"retry": None, "breaker": None, "last_known": {"keep_s": 60}})
    write(client, k=[1], f=[1.0], g=[1])
    values(client, 1)
    write(client, k=[1], f=[2.0], g=[1])
    store_of(client).fail_with = StoreUnavailable("gone")

    assert values(client, 1) == [None], "the row remembered from before the write is not served"


def two_primaries() -> Any:
    sources = {name: {"type": "memory", "role": "primary"} for name in ("a", "b")}
    return client_of(sources=sources, policy={"retry": None, "last_known": None, "breaker": None})


def test_every_primary_is_written_and_one_that_is_down_does_not_stop_the_others() -> None:
    client = two_primaries()
    store_of(client, "a").fail_with = StoreUnavailable("a is gone")

    with pytest.raises(PartialWrite) as caught:
        client.write_to_online_store("v", TABLE)

    report = caught.value.report
    assert str(caught.value) == "view 'v' was not written everywhere: a: 2 rows failed, a is gone"
    assert report.sources == {"a": WriteCounts(failed=2, error="a is gone"), "b": WriteCounts(written=2)}
    assert not report.is_complete
    assert len(store_of(client, "b").rows) == 2


def test_large_writes_go_in_batches_and_one_that_fails_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = client_of()
    sizes: list[int] = []
    plain = MemoryStore.write

    def sometimes(self: MemoryStore, batch: Batch, until: float) -> WriteCounts:
        sizes.append(len(batch.blobs))
        if len(sizes) == 2:
            raise StoreUnavailable("once")
        return plain(self, batch, until)

    monkeypatch.setattr(MemoryStore, "write", sometimes)
    n = 2500

    with pytest.raises(PartialWrite) as caught:
        write(client, k=list(range(n)), f=[1.0] * n, g=[1] * n)

    assert sizes == [1000, 1000, 500]
    assert caught.value.report.sources["primary"] == WriteCounts(written=1500, failed=1000, error="once")


def test_without_a_primary_there_is_nothing_to_write_to() -> None:
    sources = {"a": {"type": "memory", "role": "replica"}, "b": {"type": "memory", "role": "snapshot"}}
    with pytest.raises((RequestError, SpecError), match="primary"):
        client_of(sources=sources).write_to_online_store("v", TABLE)


def test_a_deleted_row_is_gone_and_comes_back_when_written_again() -> None:
    clock = ManualClock(CLOCK_S)
    client = client_of(clock)
    write(client, k=[1, 2], f=[1.0, 2.0], g=[1, 2])

    report = client.delete("v", [{"k": 1}, {"k": 7}, {"k": 1}])

    assert (report.rows, report.sources) == (2, {"primary": WriteCounts(written=2)})
    assert values(client, 1, 2, 7) == [None, 2.0, None]
    write(client, k=[1], f=[5.0], g=[5], at=NOW - dt.timedelta(seconds=1))
    assert values(client, 1) == [None], "older than the tombstone"
    write(client, k=[1], f=[6.0], g=[6], at=NOW + dt.timedelta(seconds=1))
    assert values(client, 1) == [6.0]


@pytest.mark.parametrize(
    ("view", "rows", "sentence"),
    [
        ("x", {"k": [1]}, "there is no view 'x'; the config has v, w, text, all, other_v"),
        ("other_v", {"other": [1]}, "view 'other_v' is another name of 'v'; write to that"),
        ("v", {"x": [1]}, "view 'v' wants the join key 'k'; entity_rows has no such column"),
        ("v", {"k": [1, None]}, "view 'v' wants a join key in every row to delete, got a null one"),
        ("v", {"k": ["x"]}, "key 'k' row 0 wants int64, got 'x'"),
    ],
)
def test_a_wrong_delete_is_refused(view: str, rows: Any, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        client_of().delete(view, rows)

    assert str(caught.value) == sentence


class ImagesSpec(BaseModel):
    type: str


class Images(MemoryStore):
    """A snapshot source that buries, and may be down."""

    spec: ClassVar[type[BaseModel]] = ImagesSpec
    down: Exception | None = None

    def publish(self, *given: Any, **more: Any) -> Any:
        raise NotImplementedError

    def replica_as_of(self, view: str) -> int | None:
        return None

    def refresh(self, timeout_s: float, *, views: Any = None) -> list[Refreshed]:
        return []

    def bury(self, batch: Batch) -> None:
        if self.down is not None:
            raise self.down
        self.put(batch.ask, list(batch.blobs))


class ReadOnly(MemoryStore):
    """An online source that others fill."""

    writable: ClassVar[bool] = False
    spec: ClassVar[type[BaseModel]] = ImagesSpec


def with_images(client_class: Any, primary: str = "memory") -> Any:
    sources = {"primary": {"type": primary, "role": "primary"}, "standby": {"type": "images", "role": "snapshot"}}
    settings = load(CONFIG | {"sources": sources}, stores={"images": Images, "others": ReadOnly})
    return client_class(settings, ManualClock(CLOCK_S))


def test_a_delete_that_no_source_takes_leaves_no_tombstone_anywhere() -> None:
    client = with_images(FeatureClient, "others")

    with pytest.raises(RequestError, match=r"^there is no source to write to: 'primary' is only read$"):
        client.delete("v", {"k": [1]})

    assert not client.snapshot_store().rows


def test_a_view_whose_own_sources_are_only_read_is_not_written_to_those_of_other_views() -> None:
    """The rows would be taken, and nobody would ever read them."""
    view = {"name": "foreign", "join_keys": {"k": "int64"}, "features": {"f": {"dtype": "float32"}}}
    kinds = {"primary": "memory", "others": "others"}
    whole = {
        "project": "p",
        "sources": {name: {"type": kind, "role": "primary"} for name, kind in kinds.items()},
        "views": [{**view, "policy": {"order": ["others"]}}, {**view, "name": "own"}],
        "policy": {"order": ["primary"]},
    }
    client = FeatureClient(load(whole, stores={"others": ReadOnly}), ManualClock(CLOCK_S))
    says = r"^view 'foreign' has no source to write to: 'others' is only read$"
    table = {"k": [1], "f": [1.0], "event_timestamp": [NOW]}

    with pytest.raises(RequestError, match=says):
        client.write_to_online_store("foreign", table)
    with pytest.raises(RequestError, match=says):
        client.delete("foreign", {"k": [1]})

    assert client.write_to_online_store("own", table).is_complete


def test_a_snapshot_source_that_is_down_does_not_stop_a_delete() -> None:
    client = with_images(FeatureClient)
    write(client, k=[1], f=[1.0], g=[1])
    client.snapshot_store().down = StoreUnavailable("the bucket is gone")

    with pytest.raises(PartialWrite) as caught:
        client.delete("v", {"k": [1]})

    assert caught.value.report.sources == {
        "primary": WriteCounts(written=1),
        "standby": WriteCounts(failed=1, error="the bucket is gone"),
    }
    assert values(client, 1) == [None]


def test_a_delete_reaches_the_snapshots_too() -> None:
    client = with_images(FeatureClient)

    report = client.delete("v", {"k": [1, 2]})

    assert report.sources == {"primary": WriteCounts(written=2), "standby": WriteCounts(written=2)}
    assert len(client.snapshot_store().rows) == 2


def test_an_async_delete_goes_on_past_a_snapshot_source_that_is_down() -> None:
    async def deleted() -> Any:
        async with with_images(AsyncFeatureClient) as client:
            client.snapshot_store().down = StoreRefused("no permission")
            with pytest.raises(PartialWrite) as caught:
                await client.delete("v", {"k": [1]})
            return caught.value.report.sources

    assert asyncio.run(deleted()) == {
        "primary": WriteCounts(written=1),
        "standby": WriteCounts(failed=1, error="no permission"),
    }


def test_a_snapshot_is_published_only_where_there_is_a_source_for_it(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there is no snapshot source to publish to"):
        client_of().publish_snapshot("v", TABLE)
    with pytest.raises(RequestError, match="there is no snapshot source 'x'; the config has"):
        with_images(FeatureClient).snapshot_store("x")


def test_a_row_written_is_the_primarys() -> None:
    client = client_of()
    write(client, k=[1], f=[1.0], g=[1])

    assert client.get_online_features(["v:f"], {"k": [1]}).provenance("v").origin.tolist() == [Origin.PRIMARY]


def test_a_silent_source_is_waited_for_once_and_not_for_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of()
    asked: list[int] = []

    def silent(self: MemoryStore, batch: Batch, until: float) -> WriteCounts:
        asked.append(len(batch.blobs))
        raise StoreTimeout("no answer in 5 s")

    monkeypatch.setattr(MemoryStore, "write", silent)
    n = 2500

    with pytest.raises(PartialWrite) as caught:
        write(client, k=list(range(n)), f=[1.0] * n, g=[1] * n)

    assert asked == [1000]
    assert caught.value.report.sources["primary"] == WriteCounts(failed=n, error="no answer in 5 s")
