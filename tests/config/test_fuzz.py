"""Whatever is written into a config, it loads or is refused in one sentence."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurechaos.config import load
from featurechaos.config.read import parse
from featurechaos.errors import SpecError

# Fixtures here are values nobody changes; sharing them between examples is fine.
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

words = st.sampled_from(
    [
        "primary",
        "standby",
        "plane",
        "seats",
        "packed",
        "s3",
        "redis",
        "memory",
        "snapshot",
        "float32[2]",
        "${A}",
        "${",
        "x",
    ]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-3, 3)
    | st.floats()
    | st.text(max_size=20)
    | words
    | st.dates()
    | st.binary(max_size=5)
)
keys = st.text(max_size=10) | words | st.integers() | st.booleans() | st.none()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
)


def _places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    if isinstance(tree, dict):
        for key, each in tree.items():
            yield from _places(each, (*at, key))
    elif isinstance(tree, list):
        for index, each in enumerate(tree):
            yield from _places(each, (*at, index))


def _holder(tree: Any, place: tuple[Any, ...]) -> Any:
    for part in place[:-1]:
        tree = tree[part]
    return tree


def _loads_or_is_refused(tree: Mapping[str, Any], stores: Mapping[str, Any] | None) -> None:
    try:
        loaded = load(tree, stores=stores, environ={"A": "1"})
    except SpecError as error:
        assert str(error).startswith("config: ")  # noqa: PT017  most examples load or fail as they like
        assert error.__context__ is None  # noqa: PT017
    else:
        json.dumps(loaded.dump())
        repr(loaded)


@shared
@given(data=st.data(), value=values)
def test_any_value_anywhere(data: st.DataObject, value: Any, sample: dict[str, Any], stores: Mapping[str, Any]) -> None:
    tree = copy.deepcopy(sample)
    place = data.draw(st.sampled_from([place for place in _places(tree) if place]))

    _holder(tree, place)[place[-1]] = value

    _loads_or_is_refused(tree, stores)
    _loads_or_is_refused(tree, None)


@shared
@given(data=st.data(), key=keys, value=values)
def test_any_key_anywhere(
    data: st.DataObject, key: Any, value: Any, sample: dict[str, Any], stores: Mapping[str, Any]
) -> None:
    tree: dict[Any, Any] = {"": copy.deepcopy(sample)}
    place = data.draw(st.sampled_from([at for at in _places(tree) if isinstance(_holder(tree, (*at, 0)), dict) and at]))

    _holder(tree, (*place, 0))[key] = value

    _loads_or_is_refused(tree[""], stores)


@shared
@given(data=st.data())
def test_any_part_left_out(data: st.DataObject, sample: dict[str, Any], stores: Mapping[str, Any]) -> None:
    tree = copy.deepcopy(sample)
    place = data.draw(st.sampled_from([place for place in _places(tree) if place]))

    del _holder(tree, place)[place[-1]]

    _loads_or_is_refused(tree, stores)


@shared
@given(
    data=st.data(),
    typed=st.text(max_size=4) | st.sampled_from(["\t", "{", "]", ": ", "- ", "*a", "!b", "'", "#", "&c "]),
)
def test_any_slip_of_the_hand(data: st.DataObject, typed: str, sample_text: str, stores: Mapping[str, Any]) -> None:
    begin = data.draw(st.integers(0, len(sample_text)))
    end = data.draw(st.integers(begin, min(begin + 6, len(sample_text))))
    text = sample_text[:begin] + typed + sample_text[end:]

    try:
        tree = parse(text, name="config")
    except SpecError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        _loads_or_is_refused(tree, stores)


@given(tree=values)
def test_any_yaml_is_read_as_the_safe_loader_reads_it(tree: Any) -> None:
    whole = {"top": tree}
    # Quoted, since a bare 1e3 is a number to us and text to PyYAML.
    text = yaml.safe_dump(whole, allow_unicode=True, default_style='"')

    assert repr(parse(text, name="config")) == repr(yaml.safe_load(text))
