"""What a response looks like: columns, dicts, frames, arrays; what null is in each, for every dtype."""

from __future__ import annotations

import copy
import datetime as dt
import pickle  # noqa: TID251 - that a response may be pickled is the claim
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from featurechaos import FeatureClient, Origin, RequestError, Response
from featurechaos.errors import StoreUnavailable
from featurechaos.model import DType
from featurechaos.testing import ManualClock
from tests.serving.kit import CLOCK_S, DTYPES, NAMES, NOW, client_of, filled, same, store_of, write

EVERY = list(DTYPES)


@pytest.fixture(scope="module")
def client() -> Iterator[FeatureClient]:
    with filled() as client:
        yield client


def get(client: FeatureClient, *dtypes: str, keys: Any = (1, 2, 9), **more: Any) -> Response:
    """A row of values, a row of nulls and a row that is not there."""
    return client.get_online_features([f"all:{NAMES[dtype]}" for dtype in dtypes], {"k": list(keys)}, **more)


@pytest.mark.parametrize("dtype", EVERY)
def test_a_column_has_its_declared_dtype_and_its_nulls(client: FeatureClient, dtype: str) -> None:
    value, null, _ = DTYPES[dtype]
    response = get(client, dtype)
    column, nulls = response.columns[NAMES[dtype]], response.nulls[NAMES[dtype]]

    parsed = DType.parse(dtype)
    assert column.dtype == parsed.numpy
    assert column.shape == ((3, parsed.dim) if parsed.dim else (3,))
    assert nulls.tolist() == [False, True, True]
    assert column[0].tolist() == value if parsed.dim else column[0] == value
    assert all(same(column[row], np.array(null) if parsed.dim else null) for row in (1, 2))


@pytest.mark.parametrize("dtype", EVERY)
def test_columns_are_never_widened_by_nulls_or_rows_that_are_not_there(client: FeatureClient, dtype: str) -> None:
    for keys in ([1], [2], [9], [1, 9], [], [None]):
        assert get(client, dtype, keys=keys).columns[NAMES[dtype]].dtype == DType.parse(dtype).numpy


@pytest.mark.parametrize("dtype", EVERY)
def test_in_a_dict_null_is_none_and_values_are_pythons(client: FeatureClient, dtype: str) -> None:
    value, _, _ = DTYPES[dtype]
    got = get(client, dtype).to_dict()

    wanted = dt.datetime(2024, 1, 1, tzinfo=dt.UTC) if dtype == "timestamp" else value
    assert got == {"k": [1, 2, 9], NAMES[dtype]: [wanted, None, None]}
    assert type(got[NAMES[dtype]][0]) is type(wanted)
    assert type(got["k"][0]) is int


def test_lists_of_dates_are_dates_in_a_dict() -> None:
    view = {"name": "d", "join_keys": {"k": "int64"}, "features": {"d": {"dtype": "list[timestamp]"}}}
    client = client_of(views=[view], services={})
    write(client, "d", k=[1], d=[[np.datetime64("2024-01-01", "us"), NOW]])

    got = client.get_online_features(["d:d"], {"k": [1]}).to_dict()

    assert got["d"] == [[dt.datetime(2024, 1, 1, tzinfo=dt.UTC), NOW]]


def test_a_date_that_python_has_no_name_for_is_its_microseconds() -> None:
    view = {"name": "d", "join_keys": {"k": "int64"}, "features": {"d": {"dtype": "timestamp"}}}
    client = client_of(views=[view], services={})
    far = np.datetime64("20000-01-01", "us")
    write(client, "d", k=[1], d=np.array([far]))

    response = client.get_online_features(["d:d"], {"k": [1]})

    assert response.columns["d"][0] == far
    assert response.to_dict()["d"] == [int(far.astype(np.int64))]


def test_dates_as_keys_come_back_as_dates() -> None:
    view = {"name": "d", "join_keys": {"at": "timestamp"}, "features": {"f": {"dtype": "float32"}}}
    client = client_of(views=[view], services={})
    client.write_to_online_store("d", {"at": [NOW], "f": [1.0], "event_timestamp": [NOW]})

    for column in ([NOW, None], np.array([np.datetime64(int(CLOCK_S), "s"), np.datetime64("NaT")], "M8[ns]")):
        assert client.get_online_features(["d:f"], {"at": column}).to_dict() == {"at": [NOW, None], "f": [1.0, None]}


def test_a_frame_is_the_dict_with_feasts_widening(client: FeatureClient) -> None:
    frame = get(client, "int32", "float32", "string", "bool").to_df()

    assert list(frame.columns) == ["k", "int32", "float32", "string", "bool"]
    assert frame["int32"].dtype == np.float64, "an int column with nulls, as in Feast"
    assert frame["k"].dtype == np.int64
    assert frame["int32"].isna().tolist() == [False, True, True]
    assert get(client, "int32", keys=[1]).to_df()["int32"].dtype == np.int64


def test_an_arrow_table_is_the_dict(client: FeatureClient) -> None:
    response = get(client, *EVERY)
    table = response.to_arrow(include_event_timestamps=True)

    assert table.num_rows == 3
    for name, values in response.to_dict(include_event_timestamps=True).items():
        assert table.column(name).to_pylist() == values


@pytest.mark.parametrize(
    ("dtypes", "dtype", "names"),
    [
        (["float32"], np.float32, ["float32"]),
        (["float32", "float32[2]"], np.float32, ["float32", "float32_2_0", "float32_2_1"]),
        (["float32", "int32"], np.float64, ["float32", "int32"]),
        (["bool", "int64[2]"], np.float64, ["bool", "int64_2_0", "int64_2_1"]),
        (["float64"], np.float64, ["float64"]),
    ],
)
def test_an_array_is_float_and_null_is_nan(
    client: FeatureClient, dtypes: list[str], dtype: Any, names: list[str]
) -> None:
    response = get(client, *dtypes)
    array = response.to_numpy()

    assert array.dtype == dtype
    assert array.shape == (3, len(names))
    assert response.feature_names_out == names
    assert np.isnan(array[1:]).all()
    assert not np.isnan(array[0]).any()
    assert array[0, 0] == np.asarray(DTYPES[dtypes[0]][0])


@pytest.mark.parametrize("dtype", ["string", "bytes", "timestamp", "list[float32]", "list[string]"])
def test_what_is_no_number_has_no_array(client: FeatureClient, dtype: str) -> None:
    with pytest.raises(RequestError) as caught:
        get(client, "float32", dtype).to_numpy()

    assert str(caught.value) == (
        f"to_numpy: feature 'all:{NAMES[dtype]}' is {dtype}, wanted numbers only; use .columns"
    )


def test_columns_answer_to_both_names_and_list_one(client: FeatureClient) -> None:
    response = client.get_online_features(["v:f", "w:f"], {"k": [1]}, full_feature_names=True)

    assert list(response.columns) == ["v__f", "w__f"]
    assert len(response.columns) == len(response.nulls) == 2
    assert response.columns["v:f"] is response.columns["v__f"]
    assert "w:f" in response.columns
    assert "f" not in response.columns
    assert response.features == ["v:f", "w:f"]
    for mapping in (response.columns, response.nulls):
        with pytest.raises(KeyError, match="this response has no feature 'x'; it has v:f, w:f"):
            mapping["x"]
    with pytest.raises(RequestError, match="this response has no view 'x'; it read v, w"):
        response.provenance("x")


def test_columns_are_merged_and_copied_whole_before_any_was_touched(client: FeatureClient) -> None:
    def columns() -> Any:
        return client.get_online_features(["v:f", "v:g"], {"k": [1, 3]}).columns

    for merged in (columns().copy(), columns() | {"x": 0}, {"x": 0} | columns(), columns() | columns(), {**columns()}):
        assert {name for name in merged if name != "x"} == {"f", "g"}
        assert merged["f"].tolist() == [1.5, 3.5]


def test_features_come_in_the_order_asked(client: FeatureClient) -> None:
    response = client.get_online_features(["w:f", "v:g", "all:string"], {"k": [1]})

    assert list(response.to_dict()) == ["k", "f", "g", "string"]
    assert response.views == ("w", "v", "all")


@pytest.mark.parametrize("dtype", EVERY)
def test_columns_are_the_callers_to_write(client: FeatureClient, dtype: str) -> None:
    first, second = get(client, dtype, keys=[1, 2]), get(client, dtype, keys=[1, 2])
    column, nulls = first.columns[NAMES[dtype]], first.nulls[NAMES[dtype]]
    wanted = copy.deepcopy(second.to_dict())

    column[0] = column[1]
    nulls[:] = ~nulls

    assert second.to_dict() == wanted
    assert get(client, dtype, keys=[1, 2]).to_dict() == wanted
    assert first.columns[NAMES[dtype]] is column, "asked again, it is the same array"


def test_writing_one_column_leaves_its_neighbours(client: FeatureClient) -> None:
    response = client.get_online_features(["v:f", "v:g"], {"k": [1, 2]})
    response.columns["f"][:] = -1

    assert response.columns["g"].tolist() == [10, 20]


def test_writing_a_column_leaves_what_is_remembered(client: FeatureClient) -> None:
    remembering = client_of(policy={"retry": None, "breaker": None, "last_known": {"keep_s": 60}})
    write(remembering, k=[1, 2], f=[1.0, 2.0], g=[1, 2])
    remembering.get_online_features(["v:f"], {"k": [1, 2]}).columns["f"][:] = -1
    store_of(remembering).fail_with = StoreUnavailable("gone")

    response = remembering.get_online_features(["v:f"], {"k": [1, 2]})

    assert response.provenance("v").origin.tolist() == [Origin.LAST_KNOWN] * 2
    assert response.columns["f"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("dtype", EVERY)
def test_a_default_fills_what_nobody_could_serve_and_nothing_else(dtype: str) -> None:
    value, null, default = DTYPES[dtype]
    plain = (
        default.decode()
        if isinstance(default, bytes)
        else default.item().isoformat()
        if dtype == "timestamp"
        else default
    )
    view = {"name": "d", "join_keys": {"k": "int64"}, "features": {"x": {"dtype": dtype, "default": plain}}}
    client = client_of(views=[view], services={})
    write(client, "d", k=[1, 2], x=[value, None])
    store = store_of(client)

    healthy = client.get_online_features(["d:x"], {"k": [1, 2, 9]})
    store.fail_with = StoreUnavailable("gone")
    response = client.get_online_features(["d:x"], {"k": [1, 2, None]})

    assert healthy.nulls["x"].tolist() == [False, True, True], "a stored null and an accepted miss stay null"
    assert response.nulls["x"].tolist() == [False, False, True]
    assert response.columns["x"].dtype == DType.parse(dtype).numpy
    assert all(same(np.asarray(response.columns["x"][row]), np.asarray(default)) for row in (0, 1))
    assert same(response.columns["x"][2], np.array(null) if DType.parse(dtype).dim else null)
    assert response.provenance("d").origin.tolist() == [Origin.DEFAULT, Origin.DEFAULT, Origin.NONE]


def test_a_default_that_is_a_list_is_each_cells_own() -> None:
    view = {"name": "d", "join_keys": {"k": "int64"}, "features": {"x": {"dtype": "list[float32]", "default": [1.0]}}}
    client = client_of(views=[view], services={})
    store_of(client).fail_with = StoreUnavailable("gone")
    client.get_online_features(["d:x"], {"k": [1, 2]}).columns["x"][0].append(7)

    assert client.get_online_features(["d:x"], {"k": [1, 2]}).columns["x"].tolist() == [[1.0], [1.0]]


def test_timestamps_and_provenance_stand_beside_the_columns(client: FeatureClient) -> None:
    response = client.get_online_features(["v:f", "w:f"], {"k": [1, 9]}, full_feature_names=True)

    assert response.to_dict(include_event_timestamps=True) == {
        "k": [1, 9],
        "k__ts": [0, 0],
        "v__f": [1.5, None],
        "v__f__ts": [int(CLOCK_S), 0],
        "w__f": [-1.5, None],
        "w__f__ts": [int(CLOCK_S), 0],
    }
    provenance = response.to_dict(include_provenance=True)
    assert list(provenance) == [
        "k", "v__f", "w__f", "fc_degraded", "fc_injected", "fc_origin_v", "fc_age_s_v", "fc_origin_w", "fc_age_s_w",
    ]  # fmt: skip
    assert provenance["fc_origin_v"] == ["PRIMARY", "PRIMARY"]
    assert list(response.to_df(include_provenance=True).columns) == list(provenance)


def test_tags_are_one_row_of_that(client: FeatureClient) -> None:
    response = client.get_online_features(["v:f"], {"k": [1, 9]})

    assert response.tags(0) == {"fc_degraded": False, "fc_injected": False, "fc_origin_v": "PRIMARY", "fc_age_s_v": 0.0}
    assert np.isnan(response.tags(1)["fc_age_s_v"])
    with pytest.raises(IndexError):
        response.tags(2)


def test_provenance_is_as_declared(client: FeatureClient) -> None:
    truth = client.get_online_features(["v:f"], {"k": [1, 9, 1, None]}).provenance("v")

    names = ("origin", "status", "cause", "age_s", "event_time", "injected")
    assert [getattr(truth, name).dtype for name in names] == [
        np.uint8, np.uint8, np.uint8, np.float64, np.int64, np.bool_,
    ]  # fmt: skip
    assert truth.event_time.tolist() == [int(CLOCK_S * 1e6), np.iinfo(np.int64).min] * 2
    assert np.isnan(truth.age_s).tolist() == [False, True] * 2


def test_the_callers_rows_are_kept_by_column(client: FeatureClient) -> None:
    rows: list[dict[str, Any]] = [{"k": 1, "x": "a"}, {"k": 2}]

    response = client.get_online_features(["v:f"], rows)

    assert response.entity == {"k": [1, 2], "x": ["a", None]}


def test_ages_count_from_the_beginning_of_the_request() -> None:
    clock = ManualClock(CLOCK_S)
    client = client_of(clock)
    write(client, k=[1], f=[1.0], g=[1])
    clock.advance(90)
    response = client.get_online_features(["v:f"], {"k": [1]})
    clock.advance(90)

    assert response.provenance("v").age_s.tolist() == [90.0]


def test_a_response_may_be_pickled_and_shown(client: FeatureClient) -> None:
    client.get_online_features(["v:f"], {"k": [1]})  # a row by itself, for which a layout keeps what others do not want
    response = client.get_online_features(["v:f", "text:s"], {"k": [1, 9], "a": "x", "b": 1})

    kept = pickle.loads(pickle.dumps(response))

    assert kept.to_dict(include_provenance=True).keys() == response.to_dict(include_provenance=True).keys()
    assert kept.to_dict() == response.to_dict()
    assert repr(response) == "Response(2 rows of v, text; 0 degraded)"


def test_pandas_reads_the_frame_without_warnings(client: FeatureClient) -> None:
    frame = get(client, *EVERY, keys=[1, 2]).to_df()

    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == 2
