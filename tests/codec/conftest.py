"""Views and keys made in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from featurechaos.codec import Layout, encode_keys
from featurechaos.model import DType, Feature, JoinKey, View

MakeLayout = Callable[..., Layout]
MakeKeys = Callable[..., tuple[JoinKey, ...]]
OwnOf = Callable[[int], NDArray[np.uint64]]


def _view(features: Mapping[str, str], keys: Mapping[str, str] | None = None, base: str = "plane") -> View:
    return View(
        "flights",
        base,
        base,
        tuple(JoinKey(name, DType.parse(dtype), name) for name, dtype in (keys or {"id": "int64"}).items()),
        tuple(Feature(name, DType.parse(dtype)) for name, dtype in features.items()),
    )


@pytest.fixture(scope="session")
def layout_of() -> MakeLayout:
    """Features (and keys) by name -> a layout."""

    def made(features: Mapping[str, str], keys: Mapping[str, str] | None = None, base: str = "plane") -> Layout:
        return Layout.of(_view(features, keys, base))

    return made


@pytest.fixture(scope="session")
def keys_of() -> MakeKeys:
    """Key names and dtypes -> join keys in the order of their names."""

    def made(**keys: str) -> tuple[JoinKey, ...]:
        return _view({"x": "bool"}, keys).join_keys

    return made


@pytest.fixture(scope="session")
def own_of() -> OwnOf:
    """n -> the own hashes of the integer keys 0..n-1."""

    def made(n: int) -> NDArray[np.uint64]:
        return encode_keys((JoinKey("id", DType.parse("int64"), "id"),), [np.arange(n)])[0].own

    return made
