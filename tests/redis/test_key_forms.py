"""Keys that other people chose: how a template names them, and how they are read again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurechaos.codec import encode_keys
from featurechaos.errors import SpecError
from featurechaos.model import DType, Feature, JoinKey, View
from featurechaos_redis.keys import DEFAULT_KEY, KeyForm


def view_of(**keys: str) -> View:
    joins = tuple(JoinKey(name, DType.parse(dtype), name) for name, dtype in keys.items())
    return View("flights", "dest_plane", "plane", joins, (Feature("f", DType.parse("bool")),))


def keys_of(form: KeyForm, view: View, *columns: list[Any]) -> list[bytes]:
    keys, _, _ = encode_keys(view.join_keys, columns)
    return form.keys(keys.ids)


TAIL = view_of(tailnum="string")
ROUTE = view_of(origin="string", dest="string")
PAIR = view_of(user="int64", item="string")


@pytest.mark.parametrize(
    ("template", "view", "columns", "wanted"),
    [
        (DEFAULT_KEY, TAIL, [["N1", "N22"]], [b"plane:N1", b"plane:N22"]),
        ("{view}:{tailnum}", TAIL, [["a b", "x|y", "{}%:", "ü", ""]],
         [b"plane:a b", b"plane:x|y", b"plane:{}%:", "plane:ü".encode(), b"plane:"]),
        ("{tailnum}", TAIL, [["N1"]], [b"N1"]),
        ("{project}/{view}/{tailnum}/v1", TAIL, [["N1"]], [b"flights/plane/N1/v1"]),
        ("{{{tailnum}}}:100%", TAIL, [["N1"]], [b"{N1}:100%"]),
        ("{tailnum}:{tailnum}", TAIL, [["N%1"]], [b"N%1:N%1"]),
        (DEFAULT_KEY, view_of(id="int64"), [[7, -(2**63)]], [b"plane:7", b"plane:-9223372036854775808"]),
        (DEFAULT_KEY, view_of(raw="bytes"), [[b"\x00\xff%"]], [b"plane:\x00\xff%"]),
        (DEFAULT_KEY, ROUTE, [["LAX", "a%"], ["JFK", "b"]], [b"plane:LAX:JFK", b"plane:a%:b"]),
        ("{origin}-{dest}", ROUTE, [["LAX"], ["JFK"]], [b"JFK-LAX"]),
        ("u{user}:{item}", PAIR, [["i1"], [42]], [b"u42:i1"]),
    ],
)  # fmt: skip
def test_template_names_keys(template: str, view: View, columns: list[Any], wanted: list[bytes]) -> None:
    form = KeyForm(template, view, "auto")

    assert keys_of(form, view, *columns) == wanted
    assert form.ids(wanted) == encode_keys(view.join_keys, columns)[0].ids


@pytest.mark.parametrize(
    ("unit", "wanted"),
    [
        ("auto", [b"plane:1717200000", b"plane:0.5", b"plane:-0.000001"]),
        ("s", [b"plane:1717200000", b"plane:0.5", b"plane:-0.000001"]),
        ("ms", [b"plane:1717200000000", b"plane:500", b"plane:-0.001"]),
        ("us", [b"plane:1717200000000000", b"plane:500000", b"plane:-1"]),
        ("ns", [b"plane:1717200000000000000", b"plane:500000000", b"plane:-1000"]),
    ],
)
def test_timestamps_stand_in_keys_as_numbers_of_the_unit(unit: Any, wanted: list[bytes]) -> None:
    view = view_of(at="timestamp")
    form = KeyForm(DEFAULT_KEY, view, unit)
    column = np.array([1_717_200_000_000_000, 500_000, -1]).view("M8[us]")

    assert keys_of(form, view, column) == wanted  # type: ignore[arg-type]
    assert form.ids(wanted) == [b"1717200000000000", b"500000", b"-1"]


@pytest.mark.parametrize(
    ("view", "key"),
    [
        (TAIL, b"other:N1"),
        (TAIL, b"plane"),
        (TAIL, b"plane:\xff"),
        (TAIL, b"plane:" + b"x" * 2000),
        (view_of(id="int32"), b"plane:07"),
        (view_of(id="int32"), b"plane:+7"),
        (view_of(id="int32"), b"plane:2147483648"),
        (view_of(id="int32"), b"plane:x"),
        (view_of(id="int32"), b"plane:"),
        (view_of(at="timestamp"), b"plane:1e9"),
        (view_of(at="timestamp"), b"plane:9999999999999999999999"),
        (ROUTE, b"plane:a"),
        (ROUTE, b"plane:a:b:c"),
    ],
)
def test_a_key_that_is_none_of_a_view_or_could_be_two_has_no_id(view: View, key: bytes) -> None:
    assert KeyForm(DEFAULT_KEY, view, "auto").ids([key]) == [None]


def test_a_value_given_twice_must_be_the_same() -> None:
    form = KeyForm("{tailnum}:{tailnum}", TAIL, "auto")

    assert form.ids([b"N1:N1", b"N1:N2"]) == [b"N1", None]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{plane}", "key has {plane}, which view 'plane' knows nothing of; it knows {project}, {view}, {keys}, {dest}"),
        ("{}", "key has {}, which view 'plane' knows nothing of"),
        ("{view}:{origin}", "key wants {dest} in it, a join key of view 'plane': else many rows have one key"),
        ("{origin}{dest}", "key wants something between {origin} and {dest}: else 1 and 23 have the key of 12 and 3"),
        ("{view}:{origin:>8}:{dest}", "key takes names only, such as {origin}, got {origin:...}"),
        ("{view}:{origin!r}:{dest}", "key takes names only, such as {origin}, got {origin!...}"),
        ("{view:{origin}", "key can't be read: "),
        ("{origin}:{dest}}", "key can't be read: Single '}' encountered in format string"),
        ("{origin.__class__}:{dest}", "key has {origin.__class__}, which view 'plane' knows nothing of"),
    ],
)  # fmt: skip
def test_template_that_does_not_fit_is_refused(template: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        KeyForm(template, ROUTE, "auto")

    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


TEXT = st.text(max_size=5)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4, unique=True))
def test_ids_come_back_or_are_told_apart_from_none(pairs: list[tuple[str, str]]) -> None:
    form = KeyForm(DEFAULT_KEY, ROUTE, "auto")
    keys, _, _ = encode_keys(ROUTE.join_keys, [[a for a, _ in pairs], [b for _, b in pairs]])

    found = form.ids(form.keys(keys.ids))

    for (a, b), known, got in zip(pairs, keys.ids, found, strict=True):
        assert got == (known if ":" not in a + b else None)


@given(st.binary(max_size=30))
def test_any_key_is_read_without_an_error(key: bytes) -> None:
    for view in (TAIL, ROUTE, PAIR, view_of(at="timestamp")):
        form = KeyForm(DEFAULT_KEY, view, "ms")
        for each in (key, b"plane:" + key):
            (known,) = form.ids([each])
            assert known is None or form.keys([known]) == [each]
