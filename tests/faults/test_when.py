"""Whom a fault hits: exact shares, the same everywhere, groups apart."""

from __future__ import annotations

import os
import subprocess
import sys
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurechaos.codec import encode_keys
from featurechaos.faults.when import draw_call, draw_rows, salt_of
from featurechaos.model import DType, JoinKey

INT, TEXT = (JoinKey("k", DType.parse(kind), "k") for kind in ("int64", "string"))

ELSEWHERE = """
import numpy as np
from featurechaos.codec import encode_keys
from featurechaos.faults.when import draw_call, draw_rows, salt_of
from featurechaos.model import DType, JoinKey
own = encode_keys((JoinKey("k", DType.parse("string"), "k"),), [[f"user {n}" for n in range(500)]])[0].own
salt = salt_of(7, "stale:v")
print(np.flatnonzero(draw_rows(own, salt) < 0.1).tolist())
print([n for n in range(500) if draw_call(f"request {n}", salt) < 0.1])
"""


def test_another_process_hits_the_same_rows_and_calls() -> None:
    told = {
        subprocess.run(
            [sys.executable, "-c", ELSEWHERE],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    own = encode_keys((TEXT,), [[f"user {n}" for n in range(500)]])[0].own
    salt = salt_of(7, "stale:v")
    rows = np.flatnonzero(draw_rows(own, salt) < 0.1).tolist()
    calls = [n for n in range(500) if draw_call(f"request {n}", salt) < 0.1]

    assert told == {f"{rows}\n{calls}\n"}
    assert 20 < len(rows) < 90


def within(hit: int, n: int, share: float) -> bool:
    """Within five standard deviations of a binomial."""
    return abs(hit - n * share) <= 5 * sqrt(n * share * (1 - share)) + 1


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("key", [INT, TEXT], ids=["int64", "string"])
def test_the_share_is_what_was_asked_over_many_keys(key: JoinKey, share: float) -> None:
    n = 50_000
    ids = list(range(n)) if key is INT else [f"user {number}" for number in range(n)]
    draws = draw_rows(encode_keys((key,), [ids])[0].own, salt_of(3, "stale:v"))

    assert within(int((draws < share).sum()), n, share)
    assert draws.min() >= 0
    assert draws.max() < 1


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_the_share_is_what_was_asked_over_many_calls(share: float) -> None:
    salt, n = salt_of(3, "outage:primary"), 20_000

    assert within(sum(draw_call(str(number), salt) < share for number in range(n)), n, share)


def test_neighbouring_keys_seeds_and_faults_are_drawn_apart() -> None:
    own = encode_keys((INT,), [list(range(20_000))])[0].own
    draws = [
        draw_rows(own, salt_of(seed, fault))
        for seed, fault in [(1, "stale:v"), (2, "stale:v"), (1, "stale:w"), (11, "stale:v")]
    ]
    for at, one in enumerate(draws):
        assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.04
        for other in draws[at + 1 :]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.04
            assert within(int(((one < 0.1) & (other < 0.1)).sum()), len(own), 0.01)


@given(seed=st.integers(-(2**70), 2**70), fault=st.text(max_size=30), request=st.text(max_size=50))
def test_any_seed_fault_and_request_can_be_drawn_by(seed: int, fault: str, request: str) -> None:
    salt = salt_of(seed, fault)

    assert 0 <= salt < 2**64
    assert 0 <= draw_call(request, salt) < 1
