"""Values as a person and a script see them."""

from __future__ import annotations

import json
import math
import sys
from datetime import UTC, datetime

import numpy as np
import pytest

from featurechaos.cli.output import age, instant, put_json, put_table, say, shown, size
from featurechaos.model import NO_TIME_US


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (math.nan, "-"),
        (0.0, "0 s"),
        (0.25, "0.25 s"),
        (59.9, "59.9 s"),
        (60.0, "1 min"),
        (3661.0, "1 h 1 min"),
        (7200.0, "2 h"),
        (90_000.0, "1 d 1 h"),
        (31_536_000.0, "365 d"),
    ],
)
def test_an_age_has_two_units_at_most(seconds: float, text: str) -> None:
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("time_us", "text"),
    [
        (0, "1970-01-01 00:00:00Z"),
        (1_378_011_600_250_000, "2013-09-01 05:00:00.250Z"),
        (NO_TIME_US, "-"),
        (1 << 62, f"{1 << 62} us"),
    ],
)
def test_an_instant_is_utc(time_us: int, text: str) -> None:
    assert instant(time_us) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB")]
)
def test_a_size_is_in_words(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        ("JFK", "JFK"),
        ("", "''"),
        (" a", "' a'"),
        ("red\x1b[31m", r"'red\x1b[31m'"),
        ("two\nlines", r"'two\nlines'"),
        ("[bold]not markup", "[bold]not markup"),
        (b"\x00a", r"b'\x00a'"),
        (np.float32(0.1), "0.1"),
        (np.int64(7), "7"),
        (np.datetime64("2024-06-01", "us"), "2024-06-01 00:00:00Z"),
        (np.arange(5.0), "[0, 1, 2, ... 5 values]"),
        (["a", None], "[a, null]"),
    ],
)
def test_a_value_is_short_and_nothing_a_terminal_obeys(value: object, text: str) -> None:
    assert str(shown(value)) == text


def test_json_is_strict_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    put_json(
        {
            "nan": math.nan,
            "inf": -math.inf,
            "when": datetime(2024, 6, 1, tzinfo=UTC),
            "bytes": b"\xffa",
            "array": np.array([1, 2], np.int32),
            "one": np.float32(0.5),
            "text": "Zürich",
        }
    )

    assert json.loads(capsys.readouterr().out) == {
        "nan": None,
        "inf": "-inf",
        "when": "2024-06-01T00:00:00+00:00",
        "bytes": "\\xffa",
        "array": [1, 2],
        "one": 0.5,
        "text": "Zürich",
    }


def test_prose_goes_to_stderr_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("two\n  lines")

    assert capsys.readouterr() == ("", "two lines\n")


def test_values_are_never_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    put_table(["name"], [["[red]x[/red] :smile:"]])

    assert "[red]x[/red] :smile:" in capsys.readouterr().out


def test_nothing_is_cut_in_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    long = "x" * 500

    put_table(["name"], [[long]])

    assert "".join(capsys.readouterr().out.split()).count("x") == len(long)
    assert not sys.stdout.isatty()
