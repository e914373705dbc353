"""A dict is made straight from the rows where nobody has looked at columns; it says the same as from columns."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurechaos import FeatureClient, Response
from featurechaos.errors import StoreUnavailable
from tests.serving.kit import DTYPES, NAMES, client_of, filled, same, store_of, write

WITH_DEFAULT = ("bool", "float32", "string", "int64[2]", "list[float32]")
POLICIES: dict[str, dict[str, Any]] = {
    "healthy": {},
    "missing": {"on_missing": "default"},
    "down": {},
}


def client_in(state: str) -> FeatureClient:
    """Keys 1 of values, 2 of nulls, 3 of a mixture; half of the features have defaults."""
    defaults = {dtype: DTYPES[dtype][2] for dtype in WITH_DEFAULT}
    features = {
        name: {"dtype": dtype} | ({"default": defaults[dtype]} if dtype in defaults else {})
        for dtype, name in NAMES.items()
    }
    view = {"name": "all", "join_keys": {"k": "int64"}, "features": features}
    other = {"name": "v", "join_keys": {"k": "int64"}, "features": {"f": {"dtype": "float32"}}}
    policy = {"retry": None, "last_known": None, "breaker": None} | POLICIES[state]
    client = client_of(views=[view, other], services={}, policy=policy)
    values = {name: [DTYPES[dtype][0], None] for dtype, name in NAMES.items()}
    mixture = {name: [pair[at % 2]] for at, (name, pair) in enumerate(values.items())}
    write(client, "all", k=[1, 2, 3], **{name: [*values[name], *mixture[name]] for name in values})
    write(client, k=[1, 2, 3], f=[1.5, None, np.inf])
    if state == "down":
        store_of(client).fail_with = StoreUnavailable("gone")
    return client


@pytest.fixture(scope="module")
def clients() -> dict[str, FeatureClient]:
    return {state: client_in(state) for state in POLICIES}


references = st.lists(st.sampled_from([*(f"all:{name}" for name in NAMES.values()), "v:f"]), min_size=1, unique=True)
keys = st.lists(st.sampled_from([1, 2, 3, 9, None]), max_size=6)
forms = st.sampled_from(["rows", "columns"])


def touched(response: Response) -> Response:
    for name in response.columns:
        response.columns[name], response.nulls[name]
    return response


def plain(value: Any) -> Any:
    """One cell of a column as Python has it."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    one = value.item() if isinstance(value, np.generic) else value
    return one.replace(tzinfo=UTC) if isinstance(one, datetime) else one


@given(st.sampled_from(list(POLICIES)), references, keys, forms, st.booleans(), st.booleans())
def test_a_dict_says_what_the_columns_say(
    clients: dict[str, FeatureClient],
    state: str,
    wanted: list[str],
    asked: list[Any],
    form: str,
    times: bool,
    truth: bool,
) -> None:
    def read() -> Response:
        entity_rows: Any = {"k": asked} if form == "columns" else [{"k": key} for key in asked]
        return clients[state].get_online_features(wanted, entity_rows)

    response, of_columns = read(), touched(read())

    got = response.to_dict(include_event_timestamps=times, include_provenance=truth)

    assert repr(got) == repr(of_columns.to_dict(include_event_timestamps=times, include_provenance=truth))
    cells = {"k": asked} | {
        name: [None if is_null else plain(value) for value, is_null in zip(values, of_columns.nulls[name], strict=True)]
        for name, values in of_columns.columns.items()
    }
    assert repr({name: got[name] for name in cells}) == repr(cells)
    for name, values in touched(response).columns.items():
        assert same(values, of_columns.columns[name]), "as if there had been no dict"
        assert (response.nulls[name] == of_columns.nulls[name]).all()


def test_a_dict_is_made_without_columns() -> None:
    response = filled().get_online_features(["v:f", "v:g"], {"k": [1, 2]})

    response.to_dict()

    assert not response.answers["v"].rows.ready


def test_a_dict_says_what_was_written_to_the_columns() -> None:
    response = filled().get_online_features(["v:f", "v:g"], {"k": [1, 2]})
    first = response.to_dict()

    response.columns["f"][0] = 7
    response.nulls["g"][1] = True

    assert first == {"k": [1, 2], "f": [1.5, None], "g": [10, 20]}
    assert response.to_dict() == {"k": [1, 2], "f": [7.0, None], "g": [10, None]}


def test_a_dict_says_what_was_put_in_a_columns_place() -> None:
    def read() -> Response:
        return filled().get_online_features(["v:f", "v:g"], {"k": [1]})

    of_column, of_nulls = read(), read()

    of_column.columns["f"] = np.array([7], np.float32)  # type: ignore[index]
    of_nulls.nulls["f"] = np.array([True])  # type: ignore[index]

    assert of_column.to_dict() == {"k": [1], "f": [7.0], "g": [10]}
    assert of_nulls.to_dict() == {"k": [1], "f": [None], "g": [10]}


def test_a_dict_says_what_was_written_to_the_same_rows_elsewhere() -> None:
    response = filled().get_online_features(["v:f", "v:g"], {"k": [1, 2]})
    twin = response.with_parts({"v": response.answers["v"].part})

    response.columns["f"][0] = 7

    assert twin.to_dict() == response.to_dict() == {"k": [1, 2], "f": [7.0, None], "g": [10, 20]}


def test_a_dict_is_the_callers_to_write() -> None:
    asked = [1, 2]
    response = filled().get_online_features(["v:f", "v:g"], {"k": asked})

    for values in response.to_dict(include_event_timestamps=True).values():
        values.clear()

    assert response.to_dict() == {"k": [1, 2], "f": [1.5, None], "g": [10, 20]}
    times = response.to_dict(include_event_timestamps=True)
    assert times["f__ts"] == times["g__ts"]
    assert times["f__ts"] is not times["g__ts"]


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        ([1, 2], [1, 2]),
        ([1, None], [1, None]),
        ([np.int32(1), 2], [1, 2]),
        ([1.0, float("nan")], [1, None]),
        (np.array([1, 2], np.uint16), [1, 2]),
        (np.array([1.0, np.nan]), [1, None]),
        (np.ma.masked_array([1, 2], [False, True]), [1, None]),
    ],
)
def test_keys_are_ints_whatever_they_came_in(column: Any, wanted: list[Any]) -> None:
    got = filled().get_online_features(["v:f"], {"k": column}).to_dict()["k"]

    assert repr(got) == repr(wanted)
