"""What a call may say, and the sentence that a wrong one gets."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from featurechaos import FeatureClient, RequestError
from tests.serving.kit import filled, store_of

SERVICES = "service:both, service:one"
ONE: dict[str, Any] = {"k": [1]}
NAMES_AT_ONCE = np.array(["v:f", "v:g"])


@pytest.fixture(scope="module")
def client() -> Iterator[FeatureClient]:
    with filled() as client:
        yield client


WRONG: list[tuple[Any, Any, dict[str, Any], str]] = [
    # features, entity_rows, more, the sentence
    ([], ONE, {}, "features wants at least one 'view:feature', got an empty list"),
    ((), ONE, {}, "features wants at least one 'view:feature', got an empty list"),
    (None, ONE, {}, "features wants a list of 'view:feature', or a service; got None"),
    (5, ONE, {}, "features wants a list of 'view:feature', or a service; got 5"),
    (["v:f", "service:x"], ONE, {}, "a service is asked for by itself, not in a list: got 'service:x'"),
    ([["v:f"]], ONE, {}, "features wants a list of 'view:feature', or a service; got [['v:f']]"),
    (
        [NAMES_AT_ONCE],
        ONE,
        {},
        f"features wants a list of 'view:feature', or a service; got {[NAMES_AT_ONCE]!r}",
    ),
    (["v:f"], {"k": np.array([[1, 2]])}, {}, "key 'k' row 0 wants int64, got array([1, 2]) (ndarray)"),
    ([None], ONE, {}, "features wants 'view:feature', got None"),
    ([b"v:f"], ONE, {}, "features wants 'view:feature', got b'v:f'"),
    (["v"], ONE, {}, "features wants 'view:feature', got 'v'"),
    ([":f"], ONE, {}, "features wants 'view:feature', got ':f'"),
    (["v:"], ONE, {}, "features wants 'view:feature', got 'v:'"),
    ([""], ONE, {}, "features wants 'view:feature', got ''"),
    (["x:f"], ONE, {}, "there is no view 'x'; the config has v, w, text, all, other_v"),
    (["v:x"], ONE, {}, "view 'v' has no feature 'x'; it has f, g"),
    (["v:f:g"], ONE, {}, "view 'v' has no feature 'f:g'; it has f, g"),
    (["v:f", "v:f"], ONE, {}, "features asks for 'v:f' twice"),
    (["v:f", "v:f"], ONE, {"full_feature_names": True}, "features asks for 'v:f' twice"),
    (["v:f", "w:f"], ONE, {}, "features 'v:f' and 'w:f' share the name 'f'; ask with full_feature_names=True"),
    ("service:both", ONE, {}, "features 'v:f' and 'w:f' share the name 'f'; ask with full_feature_names=True"),
    (
        "service:x",
        ONE,
        {},
        "features wants a list of 'view:feature', or a service; got 'service:x' and the config has " + SERVICES,
    ),
    (
        "v:f",
        ONE,
        {},
        "features wants a list of 'view:feature', or a service; got 'v:f' and the config has " + SERVICES,
    ),
    (["v:f"], None, {}, "entity_rows wants a list of dicts or a dict of columns, got NoneType"),
    (["v:f"], "k", {}, "entity_rows wants a list of dicts or a dict of columns, got str"),
    (["v:f"], pd.DataFrame(ONE), {}, "entity_rows wants a list of dicts or a dict of columns, got DataFrame"),
    (["v:f"], {"x": [1]}, {}, "view 'v' wants the join key 'k'; entity_rows has no such column"),
    (["v:f"], {}, {}, "view 'v' wants the join key 'k'; entity_rows has no such column"),
    (["v:f"], [{"k": 1}, {"x": 2}], {}, "view 'v' wants the join key 'k'; entity row 1 has only ['x']"),
    (["v:f"], [{"k": 1}, {}], {}, "view 'v' wants the join key 'k'; entity row 1 has only []"),
    (["v:f"], [{"k": 1}, None], {}, "entity_rows: row 1 wants a dict of join keys, got NoneType"),
    (["v:f"], [1], {}, "entity_rows: row 0 wants a dict of join keys, got int"),
    (
        ["v:f", "text:s"],
        [{"k": 1, "a": "x"}],
        {},
        "view 'text' wants the join key 'b'; entity row 0 has only ['a', 'k']",
    ),
    (["v:f"], {"k": [1, 2], "x": [1]}, {}, "entity_rows wants columns of one length, got k has 2, x has 1"),
    (["v:f"], {"k": ["x"]}, {}, "key 'k' row 0 wants int64, got 'x'"),
    (["v:f"], {"k": [1, 1.5]}, {}, "key 'k' row 1 wants int64, got 1.5"),
    (["v:f"], {"k": [True]}, {}, "key 'k' row 0 wants int64, got True"),
    (["v:f"], {"k": [2**63]}, {}, "key 'k' row 0 wants int64, got 9223372036854775808"),
    (["v:f"], {"k": [[1]]}, {}, "key 'k' row 0 wants int64, got [1] (list)"),
    (["text:s"], {"a": [1], "b": [1]}, {}, "key 'a' row 0 wants a str, got 1"),
    (["text:s"], {"a": [b"x"], "b": [1]}, {}, "key 'a' row 0 wants a str, got b'x'"),
    (["v:f"], ONE, {"deadline_s": "soon"}, "deadline_s wants a number of seconds, got 'soon'"),
    (["v:f"], ONE, {"deadline_s": float("nan")}, "deadline_s wants a number of seconds, got nan"),
    (["v:f"], ONE, {"max_age_s": -1}, "max_age_s wants seconds of 0 or more, got -1"),
    (["v:f"], ONE, {"deadline_s": 10**400}, f"deadline_s wants a number of seconds, got {10**400}"),
    (["v:f"], ONE, {"max_age_s": "1h"}, "max_age_s wants a number of seconds, got '1h'"),
    (["v:f"], ONE, {"max_age_s": True}, "max_age_s wants a number of seconds, got True"),
    (["v:f"], ONE, {"deadline_s": False}, "deadline_s wants a number of seconds, got False"),
    (["v:f"], ONE, {"max_age_s": float("nan")}, "max_age_s wants a number of seconds, got nan"),
    (["v:f"], ONE, {"on_exhausted": "explode"}, "on_exhausted wants 'default' or 'raise', got 'explode'"),
]


@pytest.mark.parametrize(("features", "rows", "more", "sentence"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_call_gets_one_sentence(
    client: FeatureClient, features: Any, rows: Any, more: dict[str, Any], sentence: str
) -> None:
    before = store_of(client).reads
    with pytest.raises(RequestError) as caught:
        client.get_online_features(features, rows, **more)

    assert str(caught.value) == sentence
    assert store_of(client).reads == before, "nothing was asked"


ROWS: list[Any] = [
    [{"k": 1}, {"k": 3}],
    ({"k": 1}, {"k": 3}),
    [{"k": 1, "extra": "x"}, {"k": 3}],
    {"k": [1, 3]},
    {"k": (1, 3)},
    {"k": np.array([1, 3])},
    {"k": np.array([1, 3], np.uint8)},
    {"k": np.array([1.0, 3.0])},
    {"k": np.array(["1", "3"])},
    {"k": [np.int32(1), 3.0]},
    {"k": ["1", Decimal(3)]},
    {"k": pd.Series([1, 3], index=[7, 9])},
    {"k": pd.Series([1, 3], dtype="Int64")},
    {"k": pd.Index([1, 3])},
    {"k": pa.array([1, 3])},
    {"k": pa.chunked_array([[1], [3]])},
    {"k": [1, 3], "x": [None, object()]},
]


@pytest.mark.parametrize("rows", ROWS, ids=range(len(ROWS)))
def test_entity_rows_come_in_many_forms(client: FeatureClient, rows: Any) -> None:
    response = client.get_online_features(["v:f"], rows)

    assert response.to_dict() == {"k": [1, 3], "f": [1.5, 3.5]}
    assert len(response) == 2


@pytest.mark.parametrize(
    "column",
    [[3], (3,), np.array([3]), np.array([3], object), pd.Series([3], index=[7]), pd.Series([3], ["a"]), pa.array([3])],
    ids=range(7),
)
def test_one_entity_row_comes_in_as_many_forms(client: FeatureClient, column: Any) -> None:
    assert client.get_online_features(["v:f"], {"k": column}).to_dict() == {"k": [3], "f": [3.5]}


@pytest.mark.parametrize("rows", [{"a": "x", "b": [1, 2, 1]}, {"a": np.array("x"), "b": np.array([1, 2, 1])}])
def test_scalars_are_broadcast(client: FeatureClient, rows: Any) -> None:
    response = client.get_online_features(["text:s"], rows)

    assert response.to_dict() == {"a": ["x"] * 3, "b": [1, 2, 1], "s": ["x1", "x2", "x1"]}


def test_one_row_may_be_all_scalars(client: FeatureClient) -> None:
    assert client.get_online_features(["text:s"], {"a": "x", "b": 2}).to_dict()["s"] == ["x2"]


NULLS: list[Any] = [None, float("nan"), np.float64("nan"), pd.NA, pd.NaT]


@pytest.mark.parametrize("null", NULLS, ids=["None", "nan", "numpy nan", "NA", "NaT"])
def test_a_null_key_is_legal_in_any_dress(client: FeatureClient, null: Any) -> None:
    for rows in ({"k": [null, 1, null]}, [{"k": null}, {"k": 1}, {"k": null}]):
        response = client.get_online_features(["v:f"], rows)

        assert response.to_dict() == {"k": [None, 1, None], "f": [None, 1.5, None]}
        assert not response.any_degraded


@pytest.mark.parametrize(
    "column",
    [pd.Series([1, None], dtype="Int64"), pa.array([1, None]), np.ma.masked_array([1, 2], [False, True]), [1.0, None]],
    ids=["pandas", "arrow", "masked", "list"],
)
def test_a_masked_key_is_a_null_one(client: FeatureClient, column: Any) -> None:
    assert client.get_online_features(["v:f"], {"k": column}).to_dict() == {"k": [1, None], "f": [1.5, None]}


def test_only_null_keys_ask_nobody_for_anything(client: FeatureClient) -> None:
    response = client.get_online_features(["v:f", "text:s"], {"k": [None, None], "a": None, "b": 1})

    assert response.to_dict() == {
        "k": [None, None],
        "a": [None, None],
        "b": [1, 1],
        "f": [None, None],
        "s": [None, None],
    }
    assert not response.any_degraded


def test_no_rows_are_an_empty_response(client: FeatureClient) -> None:
    response = client.get_online_features(["v:f", "text:s"], [])

    assert response.to_dict(include_event_timestamps=True, include_provenance=True)["f__ts"] == []
    assert (len(response), response.any_degraded, response.columns["f"].shape) == (0, False, (0,))
    assert client.get_online_features(["v:f"], {"k": []}).to_numpy().shape == (0, 1)
    assert len(client.get_online_features(["v:f"], []).to_df()) == 0


def test_duplicate_keys_are_read_once_and_fanned_out(client: FeatureClient) -> None:
    response = client.get_online_features(["v:f"], {"k": [3, 1, 3, "3", 3.0]})

    assert response.to_dict()["f"] == [3.5, 1.5, 3.5, 3.5, 3.5]
    assert len(response.answers["v"].part) == 2


def test_views_of_other_keys_meet_in_one_call(client: FeatureClient) -> None:
    response = client.get_online_features(["text:s", "v:g"], [{"a": "x", "b": 2, "k": 1}])

    assert response.to_dict() == {"a": ["x"], "b": [2], "k": [1], "s": ["x2"], "g": [10]}


def test_an_alias_reads_the_same_rows_by_other_columns(client: FeatureClient) -> None:
    response = client.get_online_features(["other_v:f", "v:f"], {"k": [1], "other": [3]}, full_feature_names=True)

    assert response.to_dict() == {"other": [3], "k": [1], "other_v__f": [3.5], "v__f": [1.5]}
    assert response.provenance("other_v").origin.tolist() == [1]


def test_a_service_is_its_features_in_its_order(client: FeatureClient) -> None:
    response = client.get_online_features("service:one", ONE)

    assert list(response.to_dict()) == ["k", "g", "f"]
    assert client.get_online_features("service:both", ONE, full_feature_names=True).to_dict() == {
        "k": [1],
        "v__f": [1.5],
        "w__f": [-1.5],
    }


@pytest.mark.parametrize("features", [("v:f",), {"v:f"}, {"v:f": 1}, np.array(["v:f"]), pd.Series(["v:f"])])
def test_features_may_be_any_iterable_of_names(client: FeatureClient, features: Any) -> None:
    assert client.get_online_features(features, ONE).to_dict()["f"] == [1.5]


def test_a_generator_of_names_is_read_once(client: FeatureClient) -> None:
    assert client.get_online_features((name for name in ["v:g"]), ONE).to_dict()["g"] == [10]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "more",
    [{"deadline_s": float("inf")}, {"deadline_s": 1}, {"max_age_s": float("inf")}, {"deadline_s": np.float32(1)}],
)
def test_numbers_of_any_kind_are_seconds(client: FeatureClient, more: dict[str, Any]) -> None:
    assert client.get_online_features(["v:f"], ONE, **more).to_dict()["f"] == [1.5]


@pytest.mark.parametrize("max_age_s", [1e300, 1e308, float("inf"), 2**70])
def test_an_age_past_all_dates_is_no_limit(client: FeatureClient, max_age_s: float) -> None:
    assert client.get_online_features(["v:f"], ONE, max_age_s=max_age_s).to_dict()["f"] == [1.5]


def test_the_request_id_is_the_callers_or_made(client: FeatureClient) -> None:
    assert client.get_online_features(["v:f"], ONE, request_id="mine").request_id == "mine"
    made = [client.get_online_features(["v:f"], ONE).request_id for _ in range(2)]
    assert made[0] != made[1]
    assert all(len(bytes.fromhex(each)) == 16 for each in made)


def test_more_feature_lists_than_are_kept_still_work(client: FeatureClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from featurechaos import serving

    monkeypatch.setattr(serving, "_MOST_COMPILED", 2)
    for features in (["v:f"], ["v:g"], ["w:f"], ["v:f", "v:g"], ["v:f"]):
        assert client.get_online_features(features, ONE).features == features
    assert len(client._serving._compiled) <= 2


def test_a_feature_that_would_hide_a_join_key_is_refused() -> None:
    views = [
        {"name": "v", "join_keys": {"k": "int64"}, "features": {"f": {"dtype": "float32"}}},
        {"name": "w", "join_keys": {"j": "int64"}, "features": {"k": {"dtype": "float32"}}},
    ]
    client = FeatureClient.from_config({"project": "t", "sources": {"primary": {"type": "memory"}}, "views": views})

    with pytest.raises(RequestError, match="feature 'w:k' goes out as 'k', which is a join key"):
        client.get_online_features(["v:f", "w:k"], {"k": [1], "j": [1]})

    named = client.get_online_features(["v:f", "w:k"], {"k": [1], "j": [1]}, full_feature_names=True)
    assert named.to_dict() == {"k": [1], "j": [1], "v__f": [None], "w__k": [None]}


def test_arrays_may_be_written_over_after_the_call(client: FeatureClient) -> None:
    keys = np.array([1, 2])
    response = client.get_online_features(["v:f"], {"k": keys})

    keys[:] = 0

    assert response.to_dict()["k"] == [1, 2]
