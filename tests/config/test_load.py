"""What a config comes to: defaults, roles, policies, aliases, and what it says of itself."""

from __future__ import annotations

import copy
import json
import os
import pickle  # noqa: TID251 - clients pickle as their config
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from featurechaos import config
from featurechaos.config import LastKnown, Settings, load, schema
from featurechaos.errors import SpecError
from featurechaos.model import Origin

Load = Callable[..., Settings]

SECOND = "sources: {second: {type: redis, url: 'redis://h', timeout_s: 0.012}}\npolicy: {deadline_s: 1}"
ALIAS = """
views:
  - {name: dest_weather, from: weather, join_keys: {dest: airport}, policy: {on_missing: fallback}}
  - name: weather
    join_keys: {hour: int64, airport: string}
    features: {wind: {dtype: float32, default: 3}}
    ttl_s: 60
    max_age_s: 600
services: {delay_model: ["dest_weather:wind"]}
"""


def test_the_sample_loads_from_a_file(tmp_path: Path, stores: Mapping[str, Any], sample_text: str) -> None:
    file = tmp_path / "featurechaos.yaml"
    file.write_text(sample_text, encoding="utf-8")

    settings = load(file, stores=stores, environ={})

    assert settings.name == "featurechaos.yaml"
    assert settings.project == "flights"
    assert list(settings.sources) == ["primary", "standby"]
    assert list(settings.views) == ["airport_hourly", "plane"]
    assert settings.services == {"delay_model": ("airport_hourly:dep_delay_mean_2h",)}
    view = settings.views["airport_hourly"]
    assert (view.ttl_s, view.max_age_s, view.project, view.base) == (7200, None, "flights", "airport_hourly")
    assert [feature.name for feature in view.features] == ["dep_delay_mean_2h", "embedding"]
    assert [feature.default for feature in view.features] == [0.0, None]
    assert view.feature["embedding"].dtype.dim == 64
    assert load(file, stores=stores, environ={}) == settings


def test_the_sample_loads_with_the_stores_that_are_installed(sample: dict[str, Any]) -> None:
    settings = load(sample, environ={})

    assert [source.role for source in settings.sources.values()] == [Origin.PRIMARY, Origin.SNAPSHOT]
    assert settings.sources["standby"].timeout_s is None


def test_what_the_sample_shows_are_the_defaults(
    loaded: Load, sample: dict[str, Any], stores: Mapping[str, Any]
) -> None:
    whole = loaded()
    least = {key: sample[key] for key in ("project", "sources", "views", "services")}

    assert load(least, stores=stores, environ={}).dump() == whole.dump()
    for section in ("chaos", "impact", "metrics", "policy"):
        assert whole.dump()[section] == sample[section]


def test_a_partial_mapping_keeps_the_rest(loaded: Load, sample: dict[str, Any]) -> None:
    del sample["policy"]["breaker"]["open_s"]

    assert loaded("policy: {breaker: {open_s: 3}}").policy.breaker == loaded().policy.breaker.model_copy(  # type: ignore[union-attr]
        update={"open_s": 3}
    )


@pytest.mark.parametrize("layer", ["retry", "breaker", "empty", "hedge", "last_known"])
def test_null_turns_a_layer_off(loaded: Load, layer: str) -> None:
    settings = loaded(f"policy: {{{layer}: null}}")

    assert getattr(settings.policy, layer) is None
    assert settings.dump()["policy"][layer] is None


def test_null_turns_a_section_off(loaded: Load) -> None:
    settings = loaded("{chaos: null, impact: null, metrics: null, services: null}")

    assert settings.chaos.enabled is False
    assert settings.impact.sample_share == 0
    assert settings.metrics.port is None
    assert settings.services == {}


def test_last_known_off_is_off_for_every_view(loaded: Load) -> None:
    policies = loaded("policy: {last_known: null}").policies

    assert [policy.last_known for policy in policies.values()] == [None, None]


def test_without_retries_and_waits_the_plan_is_shorter(loaded: Load) -> None:
    assert loaded("policy: {retry: null, deadline_s: 0.020}").policy.deadline_s == 0.020
    with pytest.raises(SpecError, match=r"primary 1 x 0.015 \+ 0 of waits"):
        loaded("policy: {retry: null, deadline_s: 0.0199}")


def test_a_plan_that_fits_its_deadline_exactly_is_taken(loaded: Load) -> None:
    assert loaded("policy: {deadline_s: 0.037}").policy.deadline_s == 0.037


def test_without_a_breaker_nothing_is_too_slow_to_see(loaded: Load) -> None:
    assert loaded("{policy: {breaker: null}, sources: {primary: {timeout_s: 0.005}}}").policy.breaker is None


@pytest.mark.parametrize(
    ("primary", "second", "order", "roles"),
    [
        (None, None, "[primary, second, standby]", "PRIMARY REPLICA SNAPSHOT"),
        (None, None, "[standby, second, primary]", "REPLICA PRIMARY SNAPSHOT"),
        (None, None, "[second, standby]", "REPLICA PRIMARY SNAPSHOT"),
        (None, "primary", "[primary, second]", "REPLICA PRIMARY SNAPSHOT"),
        ("replica", None, "[primary, second]", "REPLICA PRIMARY SNAPSHOT"),
        ("primary", "primary", "[primary, second]", "PRIMARY PRIMARY SNAPSHOT"),
        ("replica", "replica", "[primary, second]", "REPLICA REPLICA SNAPSHOT"),
    ],
)
def test_roles_are_as_written_and_else_follow_the_order(
    loaded: Load, primary: str | None, second: str | None, order: str, roles: str
) -> None:
    over = {
        "sources": {
            "primary": {"role": primary},
            "second": {"type": "redis", "url": "redis://h", "role": second},
        },
        "policy": {"deadline_s": 1, "order": yaml.safe_load(order)},
    }

    sources = loaded(json.dumps(over)).sources

    got = " ".join(sources[name].role.name for name in ("primary", "second", "standby"))
    assert got == roles


def test_memory_is_always_there_and_may_be_anything(loaded: Load) -> None:
    over = "sources: {near: {type: memory, role: %s, timeout_s: 0.011}}\npolicy: {deadline_s: 1}"

    for role in ("primary", "replica", "snapshot"):
        near = loaded(over % role).sources["near"]
        assert (near.role.name.lower(), near.is_online) == (role, role != "snapshot")


def test_a_view_may_have_its_own_order_and_policy(loaded: Load) -> None:
    own = (
        "{name: v, join_keys: {k: int64}, features: {f: {dtype: int32}}, policy: {order: [standby, second],"
        " on_missing: default, last_known: {keep_s: 5}}}"
    )
    off = "{name: w, join_keys: {k: int64}, features: {g: {dtype: int32}}, policy: {last_known: null}}"

    settings = loaded(f"{SECOND[:-1]}, on_expired: serve}}\nviews: [{own}, {off}]\nservices: null")

    policy = settings.policies["v"]
    assert policy.order == ("standby", "second")
    assert (policy.online, policy.local) == (("second",), ("standby",))
    assert (policy.on_missing, policy.on_expired, policy.on_exhausted) == ("default", "serve", "default")
    assert policy.last_known == LastKnown(keep_s=5, max_rows=200_000)
    assert settings.policies["w"].order == ("primary", "standby")
    assert settings.policies["w"].last_known is None


def test_a_views_last_known_may_be_on_where_it_is_off_for_all(loaded: Load) -> None:
    own = "{name: v, join_keys: {k: int64}, features: {f: {dtype: int32}}, policy: {last_known: {keep_s: 5}}}"

    settings = loaded(f"policy: {{last_known: null}}\nviews: [{own}]\nservices: null")

    assert settings.policies["v"].last_known == LastKnown(keep_s=5)


def test_only_sources_in_an_order_count_for_the_deadline(loaded: Load) -> None:
    witness = (
        "{sources: {witness: {type: redis, url: 'redis://w', timeout_s: 0.008}}, impact: {reference_source: witness}}"
    )

    settings = loaded(witness)

    assert settings.impact.reference_source == "witness"
    assert settings.policies["plane"].order == ("primary", "standby")
    assert settings.sources["witness"].role is Origin.REPLICA


def test_an_alias_reads_another_view_under_other_columns(loaded: Load) -> None:
    settings = loaded(ALIAS)

    alias, weather = settings.views["dest_weather"], settings.views["weather"]
    assert (alias.name, alias.base, alias.head) == ("dest_weather", "weather", weather.head)
    assert [(key.name, key.column) for key in alias.join_keys] == [("airport", "dest"), ("hour", "hour")]
    assert [(key.name, key.column) for key in weather.join_keys] == [("airport", "airport"), ("hour", "hour")]
    assert (alias.features, alias.ttl_s, alias.max_age_s) == (weather.features, 60, 600)
    assert settings.policies["dest_weather"].on_missing == "fallback"
    assert settings.policies["weather"].on_missing == "accept"


@pytest.mark.parametrize(
    ("dtype", "default", "kept"),
    [
        ("bool", "true", True),
        ("int32", "3.0", 3),
        ("int64", "-9223372036854775808", -(2**63)),
        ("float32", "1e-3", 0.001),
        ("float64", "2", 2.0),
        ("string", "''", ""),
        ("bytes", "ab", b"ab"),
        ("bytes", "!!binary AAE=", b"\x00\x01"),
        ("timestamp", "2024-01-31T12:00:00+01:00", np.datetime64("2024-01-31T11:00:00", "us")),
        ("timestamp", "2024-01-31", np.datetime64("2024-01-31", "us")),
        ("float32[3]", "[1, 2, 3]", (1.0, 2.0, 3.0)),
        ("float32[3]", "0", (0.0, 0.0, 0.0)),
        ("list[string]", "[]", ()),
        ("list[int64]", "[1, 2]", (1, 2)),
        ("int32", "null", None),
    ],
)
def test_a_default_is_kept_as_its_dtype_has_it(loaded: Load, dtype: str, default: str, kept: object) -> None:
    feature = f"{{dtype: '{dtype}', default: {default}}}"

    settings = loaded(f"views: [{{name: v, join_keys: {{k: int64}}, features: {{f: {feature}}}}}]\nservices: null")

    got = settings.views["v"].features[0].default
    assert got == kept
    assert type(got) is type(kept)


def test_chaos_is_armed_by_the_environment_alone(loaded: Load) -> None:
    assert loaded("chaos: {enabled: true}").is_armed is False
    assert loaded("chaos: {enabled: true}", FEATURECHAOS_CHAOS="yes").is_armed is False
    assert loaded("", FEATURECHAOS_CHAOS="armed").is_armed is True


def test_listening_is_on_loopback(loaded: Load) -> None:
    for address in ("127.0.0.1:9911", "localhost:0", "[::1]:9911"):
        assert loaded(f"chaos: {{listen: '{address}'}}").chaos.listen == address


@pytest.mark.parametrize(("listen", "port"), [("127.0.0.1:0", 0), ("127.0.0.1:9911", 9464), ("[::1]:9464", 9464)])
def test_ports_that_do_not_meet_may_both_be_named(loaded: Load, listen: str, port: int) -> None:
    settings = loaded(f"{{chaos: {{listen: '{listen}'}}, metrics: {{port: {port}}}}}")

    assert (settings.chaos.listen, settings.metrics.port) == (listen, port)


def test_settings_cannot_be_changed(loaded: Load) -> None:
    settings = loaded()

    with pytest.raises(FrozenInstanceError):
        settings.project = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        settings.sources["x"] = settings.sources["primary"]  # type: ignore[index]
    with pytest.raises(ValueError, match="frozen"):
        settings.policy.deadline_s = 1


def test_loading_leaves_the_mapping_alone(sample: dict[str, Any], stores: Mapping[str, Any]) -> None:
    before = copy.deepcopy(sample)

    settings = load(sample, stores=stores, environ={})
    sample["policy"]["retry"]["attempts"] = 9

    assert settings.source_text == before


@pytest.mark.parametrize("over", ["", ALIAS, SECOND, "{policy: {retry: null, breaker: null}, chaos: null}"])
def test_what_is_dumped_loads_to_the_same(loaded: Load, stores: Mapping[str, Any], over: str) -> None:
    settings = loaded(over)

    again = load(json.loads(json.dumps(settings.dump())), stores=stores, environ={})

    assert again.dump() == settings.dump()
    assert again == settings


def test_settings_pickle_as_what_was_written(
    sample: dict[str, Any], stores: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample["sources"]["primary"]["url"] = "redis://:${PICKLED_PASSWORD}@h"
    monkeypatch.setenv("PICKLED_PASSWORD", "hunter2-hunter2")
    settings = load(sample, stores=stores)

    data = pickle.dumps(settings)

    assert b"hunter2" not in data
    assert pickle.loads(data) == settings


def test_environment_is_the_processes_own_unless_given(
    sample: dict[str, Any], stores: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample["project"] = "${TEST_PROJECT}"
    monkeypatch.setenv("TEST_PROJECT", "own")

    assert load(sample, stores=stores).project == "own"
    assert load(sample, stores=stores, environ={"TEST_PROJECT": "given"}).project == "given"


def test_the_schema_covers_the_core_and_the_stores(stores: Mapping[str, Any]) -> None:
    whole = schema(stores)

    names = whole["$defs"]
    assert set(names["Core"]["properties"]) == {
        "project", "sources", "views", "services", "policy", "chaos", "impact", "metrics",
    }  # fmt: skip
    assert "from" in names["ViewSpec"]["properties"]
    assert names["WireSpec"]["properties"]["type"] == {"const": "redis"}
    assert names["WireSpec"]["properties"]["role"] == {"enum": ["primary", "replica", "snapshot"]}
    assert names["Breaker"]["properties"]["failure_rate"]["exclusiveMinimum"] == 0
    assert names["Chaos"]["properties"]["max_share"]["maximum"] == 1
    json.dumps(whole)


def test_a_driver_that_is_missing_is_named_with_what_to_install(
    sample: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "acme-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: acme\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[featurechaos.stores]\nacme = acme_store:Store\n", encoding="utf-8")
    (tmp_path / "acme_store.py").write_text("import a_driver_that_is_not_there\n", encoding="utf-8")
    monkeypatch.syspath_prepend(os.fspath(tmp_path))
    sample["sources"]["primary"] = {"type": "acme"}

    with pytest.raises(SpecError) as caught:
        load(sample, environ={})

    assert str(caught.value) == (
        "config: sources.primary.type: type acme needs: pip install 'a_driver_that_is_not_there' "
        "(a_driver_that_is_not_there is not installed)"
    )
    assert "acme" not in schema()["$defs"]


def test_importing_the_config_waits_for_no_model_and_no_parser() -> None:
    program = (
        "import sys, featurechaos.config\n"
        "late = {'yaml', 'difflib', 'importlib.metadata', 'featurechaos.config.spec', 'featurechaos.testing'}\n"
        "already = set(sys.modules) & late\n"
        "featurechaos.config.load, featurechaos.config.Policy, featurechaos.config.schema\n"
        "print(sorted(already), 'featurechaos.config.spec' in sys.modules)\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)

    assert done.stdout == "[] True\n", done.stderr


def test_a_name_the_config_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'featurechaos.config' has no attribute 'lod'"):
        _ = config.lod  # type: ignore[attr-defined]
