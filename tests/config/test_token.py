"""What another process must show to inject here: from the environment, long enough, and never told."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from featurechaos.config import Settings
from featurechaos.errors import SpecError

Load = Callable[..., Settings]
TOKEN = "sesame-sesame-sesame"
OPEN = "chaos: {enabled: true, listen: '127.0.0.1:9911'}"
ARMED = {"FEATURECHAOS_CHAOS": "armed"}


@pytest.mark.parametrize(
    ("token", "got"),
    [
        (None, "got none"),
        ("", "got none"),
        ("short", "got 5"),
        ("a token with a space", "got one with other characters in it"),
        ("quite-long-but-\n-two-lines", "got one with other characters in it"),
    ],
)
def test_an_armed_endpoint_wants_a_token_that_is_not_guessed(loaded: Load, token: str | None, got: str) -> None:
    environ = ARMED if token is None else {**ARMED, "FEATURECHAOS_TOKEN": token}

    with pytest.raises(SpecError) as caught:
        loaded(OPEN, **environ)

    assert str(caught.value).partition("chaos.listen: ")[2] == (
        "wanted a token of 16 or more letters, digits and signs in the environment variable FEATURECHAOS_TOKEN, " + got
    )


@pytest.mark.parametrize("over", [OPEN.replace("true", "false"), "chaos: {enabled: true}"])
def test_who_does_not_listen_wants_none(loaded: Load, over: str) -> None:
    assert loaded(over, **ARMED).chaos_token is None


def test_who_is_not_armed_wants_none(loaded: Load) -> None:
    assert loaded(OPEN).chaos_token is None


def test_it_is_never_shown(loaded: Load) -> None:
    settings = loaded(OPEN, **ARMED, FEATURECHAOS_TOKEN=TOKEN)

    assert settings.chaos_token == TOKEN
    assert TOKEN not in f"{settings!r} {settings} {json.dumps(settings.dump())}"
    assert settings.secrets.scrub(f"refused: {TOKEN}") == "refused: ***"
