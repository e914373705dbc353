"""One config after another in one process: what is taken, what wants a restart, how both are told."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from featurechaos import SpecError
from featurechaos.config import Settings, follow, load, version_of

CONFIG: dict[str, Any] = {
    "project": "t",
    "sources": {
        "primary": {"type": "redis", "url": "redis://user:hunter2@a:6379/0"},
        "second": {"type": "memory"},
        "standby": {"type": "memory", "role": "snapshot"},
    },
    "views": [
        {
            "name": "plane",
            "join_keys": {"tailnum": "string"},
            "features": {"seats": {"dtype": "int32", "default": 1}},
            "ttl_s": 60,
        },
        {"name": "dest", "join_keys": {"k": "int64"}, "features": {"f": {"dtype": "float32"}}},
    ],
    "services": {"both": ["plane:seats", "dest:f"]},
    "policy": {"deadline_s": 0.1},
    "chaos": {"enabled": True},
}


def other(**at: Any) -> dict[str, Any]:
    """The same config with other values; a place is its steps joined by two underscores."""
    tree: dict[str, Any] = copy.deepcopy(CONFIG)
    for place, value in at.items():
        *steps, last = (int(step) if step.isdigit() else step for step in place.split("__"))
        held: Any = tree
        for step in steps:
            held = held[step] if isinstance(step, int) else held.setdefault(step, {})
        held[last] = value
    return tree


def changes(**at: Any) -> list[str]:
    return follow(load(CONFIG), other(**at))[1]


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ({"policy__deadline_s": 0.2}, ["policy.deadline_s: 0.1 -> 0.2"]),
        ({"policy__breaker__open_s": 5}, ["policy.breaker.open_s: 1.0 -> 5.0"]),
        (
            {"policy__retry": None},
            [
                "policy.retry: {attempts: 2, wait_first_s: 0.002, budget_ratio: 0.1, budget_burst: 3} -> null",
            ],
        ),
        ({"policy__last_known__keep_s": 60}, ["policy.last_known.keep_s: 900.0 -> 60.0"]),
        ({"policy__on_missing": "fallback"}, ["policy.on_missing: accept -> fallback"]),
        (
            {"views__0__ttl_s": None, "views__1__max_age_s": 7},
            ["views.plane.ttl_s: 60.0 -> null", "views.dest.max_age_s: null -> 7.0"],
        ),
        ({"views__1__policy__on_expired": "serve"}, ["views.dest.policy.on_expired: fallback -> serve"]),
        (
            {"views__1__policy__order": ["standby"]},
            ["views.dest.policy.order: [primary, second, standby] -> [standby]"],
        ),
        ({"policy__order": ["primary", "standby"]}, ["policy.order: [primary, second, standby] -> [primary, standby]"]),
        ({"chaos__max_share": 0.5}, ["chaos.max_share: 0.05 -> 0.5"]),
        ({}, []),
        ({"policy__last_known__keep_s": 900, "views__1__ttl_s": None}, []),
    ],
)
def test_what_may_change_is_told_with_its_place(at: dict[str, Any], told: list[str]) -> None:
    assert changes(**at) == told


def test_a_view_that_does_it_its_own_way_is_told_beside_what_holds_for_all() -> None:
    own = other(views__1__policy__on_missing="default")
    both = other(views__1__policy__on_missing="accept", policy__on_missing="fallback")

    assert follow(load(own), both)[1] == [
        "policy.on_missing: accept -> fallback",
        "views.dest.policy.on_missing: default -> accept",
    ]


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ({"project": "u"}, "config: project: t -> u wants a restart"),
        ({"sources__primary__timeout_s": 0.02}, "config: sources.primary.timeout_s: 0.015 -> 0.02 wants a restart"),
        (
            {"sources__primary__url": "redis://user:hunter2@b:6379/0"},
            "config: sources.primary.url: redis://user:***@a:6379/0 -> redis://user:***@b:6379/0 wants a restart",
        ),
        (
            {"sources__primary__url": "redis://user:hunter3@a:6379/0"},
            "config: sources.primary.url: another value, not shown, wants a restart",
        ),
        (
            {"sources__more": {"type": "memory"}, "policy__deadline_s": 0.2},
            "config: sources.more: is new, which wants a restart",
        ),
        (
            {"views__0__features__seats__dtype": "int64"},
            "config: views.plane.features.seats.dtype: int32 -> int64 wants a restart",
        ),
        (
            {"views__0__features__seats__default": 2},
            "config: views.plane.features.seats.default: 1 -> 2 wants a restart",
        ),
        (
            {"views__0__join_keys": {"tail": "string"}},
            "config: views.plane.join_keys.tailnum: is gone, which wants a restart (and 1 more)",
        ),
        ({"services__both": ["dest:f"]}, "config: services.both: [plane:seats, dest:f] -> [dest:f] wants a restart"),
        ({"metrics__port": 9464}, "config: metrics.port: null -> 9464 wants a restart"),
        ({"chaos__listen": "127.0.0.1:9911"}, "config: chaos.listen: null -> 127.0.0.1:9911 wants a restart"),
        ({"chaos__enabled": False}, "config: chaos.enabled: true -> false wants a restart"),
        ({"impact__sample_share": 0.5}, "config: impact.sample_share: 0.02 -> 0.5 wants a restart"),
        (
            {"policy__order": ["second", "primary", "standby"]},
            (
                "config: sources.primary.role: primary -> replica wants a restart; a `role` that is written does not "
                "follow policy.order (and 1 more)"
            ),
        ),
        ({"policy__deadline_s": -1}, "config: policy.deadline_s: wanted a number more than 0, got -1"),
        ({"policy__dedline_s": 1}, "config: policy.dedline_s: is not a known key, did you mean 'deadline_s'?"),
    ],
)
def test_what_wants_a_restart_is_refused_in_one_sentence(at: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError) as refused:
        changes(**at)

    assert str(refused.value) == told


def test_orders_may_change_where_roles_are_written() -> None:
    roles = {"sources__primary__role": "primary", "sources__second__role": "replica"}
    turned = other(policy__order=["second", "primary", "standby"], **roles)

    assert follow(load(CONFIG), turned)[1] == ["policy.order: [primary, second, standby] -> [second, primary, standby]"]


def test_a_view_that_is_gone_or_new_is_refused() -> None:
    fewer = {**CONFIG, "views": CONFIG["views"][:1], "services": None}

    with pytest.raises(SpecError, match=r"^config: views\.dest: is gone, which wants a restart \(and 1 more\)$"):
        follow(load(CONFIG), fewer)
    with pytest.raises(SpecError, match=r"^config: views\.dest: is new, which wants a restart \(and 1 more\)$"):
        follow(load(fewer), CONFIG)


def test_what_stands_in_another_order_is_the_same() -> None:
    turned = {**CONFIG, "views": CONFIG["views"][::-1]}

    assert follow(load(CONFIG), turned)[1] == []
    assert version_of(load(turned)) == version_of(load(CONFIG))


def test_a_secret_of_the_environment_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    config = other(sources__primary__url="${REDIS_URL}", sources__primary__options={"password": "${WORD}"})
    monkeypatch.setenv("REDIS_URL", "redis://a:6379/0")
    monkeypatch.setenv("WORD", "swordfish")
    settings = load(config)
    monkeypatch.setenv("WORD", "sesame-open")

    with pytest.raises(SpecError) as refused:
        follow(settings, config)

    assert str(refused.value) == "config: sources.primary.options.password: another value, not shown, wants a restart"


def test_a_version_is_of_what_may_change() -> None:
    known = version_of(load(CONFIG))

    assert len(known) == 12
    assert version_of(load(other(policy__last_known__keep_s=900.0))) == known
    assert version_of(load(other(services=None, metrics__port=1))) == known
    ones = [
        other(policy__deadline_s=0.2),
        other(views__0__ttl_s=61),
        other(chaos__max_share=1),
        other(policy__empty=None),
    ]
    assert len({known, *(version_of(load(one)) for one in ones)}) == 5


def test_the_environment_said_once_whether_faults_may_be_and_whether_to_step_aside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FEATURECHAOS_CHAOS", "armed")
    monkeypatch.setenv("FEATURECHAOS_TOKEN", "a-token-that-only-tests-know")
    settings = load(CONFIG)
    monkeypatch.setenv("FEATURECHAOS_BYPASS", "1")
    monkeypatch.delenv("FEATURECHAOS_CHAOS")
    monkeypatch.delenv("FEATURECHAOS_TOKEN")

    new, told = follow(settings, CONFIG)

    assert told == []
    assert (new.is_armed, new.is_bypassed, new.chaos_token) == (True, False, settings.chaos_token)


def test_what_is_read_anew_is_the_first_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(CONFIG))
    monkeypatch.chdir(tmp_path)
    first: Settings = load("first.yaml")

    assert first.path == str(tmp_path / "first.yaml")
    assert follow(first, tmp_path / "second.yaml")[0].path == first.path
    assert follow(first, CONFIG)[0].path == first.path
    assert follow(load(CONFIG), "second.yaml")[0].path == str(tmp_path / "second.yaml")
    assert load(CONFIG).path is None
