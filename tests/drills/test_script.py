"""Reading drill files: every mistake is told by its path, and a script survives being written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from featurechaos.drills import Script, load_script, parse_script
from featurechaos.drills.reading import script_of
from featurechaos.errors import SpecError

DRILL = """
title: Redis dies in the evening bank; the snapshot carries the load inside the deadline
tags: [flights, failover, redis]
config: featurechaos.yaml
target: {kind: local, world: flights}
configuration: {outage_s: {env: OUTAGE_S, default: 30}, seed: 7}
clock: real
model: {predict: "featurechaos.demo.flights:predict", threshold: 0.30}
reference: {source: witness}
load: {requests: "featurechaos.demo.flights:requests", rate_per_s: 200, arrivals: poisson, entities: 20}
steady_state:
  title: fresh, in time, unchanged
  for_s: 15
  probes:
    - {probe: error_rate, max: 0}
    - {probe: latency_s, quantile: 0.99, max: 0.020}
    - {probe: origin_share, origin: PRIMARY, min: 0.99}
    - {probe: ready, full: true}
method:
  - {at_s: 0, name: kill, inject: {fault: process_kill, source: primary, for_s: "${outage_s}", restart: refilled}}
  - {at_s: 5, name: slow, inject: {fault: delay, source: standby, delay_s: 0.01, share: 0.5}, for_s: 5}
  - {at_s: 10, name: mid-outage, probe: psi, max: 0.05}
guards:
  - {probe: error_rate, max: 0.01, alpha: 0.01}
  - {probe: no_data_s, max: 5}
expect:
  during:
    - {probe: origin_share, origin: [SNAPSHOT, LAST_KNOWN], min: 0.98}
    - {probe: flip_rate, max: 0.10, margin: 0.02}
  after: steady_state
recovery: {within_s: 5, probe: origin_share, origin: PRIMARY, min: 0.90, no_flap: 2}
coverage: {min_requests: 2000, min_applied: 1000, min_pairs: 500}
rollbacks: [{action: clear_all}, {probe: active_faults, equals: 0}]
report: {dir: reports/redis-down, formats: [html, md, json, junit], plots: [latency, origins, flips]}
"""


def test_a_whole_drill_is_read() -> None:
    script = parse_script(DRILL)

    assert [step.name for step in script.faults] == ["kill", "slow"]
    assert script.during_s == 30
    assert script.takes_s == 65
    assert script.after == script.steady_state.probes
    assert [probe.probe for probe in script.live_probes()] == ["ready"]


def test_values_come_from_the_environment_and_from_settings() -> None:
    assert parse_script(DRILL, env={"OUTAGE_S": "45"}).during_s == 45
    assert parse_script(DRILL, env={"OUTAGE_S": "45"}, settings={"outage_s": "60"}).during_s == 60


def test_a_secret_in_a_file_is_not_read_into_the_script(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("hunter2")

    script = parse_script(DRILL.replace("tags: [", f'description: "${{file:{secret}}} costs $$5"\ntags: ['))

    assert script.description == f"${{file:{secret}}} costs $5"
    assert script_of(script.as_dict()) == script


def test_a_file_is_read_and_named(tmp_path: Path) -> None:
    path = tmp_path / "kill.yaml"
    path.write_text(DRILL)
    assert load_script(path) == parse_script(DRILL)

    path.write_text(DRILL.replace("share: 0.5", "share: 5"))
    with pytest.raises(SpecError, match=r"^kill\.yaml: method\[1\]\.inject\.share: 5 is not within 0\.\.1$"):
        load_script(path)


MISTAKES = [
    (
        "steady_state:",
        "steady-state-hypothesis:",
        "steady-state-hypothesis: is not a known key, did you mean 'steady_state'?",
    ),
    ("share: 0.5", "share: 1.5", "method[1].inject.share: 1.5 is not within 0..1"),
    ("share: 0.5", "share: true", "method[1].inject.share: wanted a number, got true"),
    (
        "process_kill",
        "proces_kill",
        "method[0].inject.fault: 'proces_kill' is not a fault, did you mean 'process_kill'?",
    ),
    ("restart: refilled", "restart: maybe", "method[0].inject.restart: wanted refilled, empty or none, got 'maybe'"),
    ("restart: refilled", "share: 0.1", "method[0].inject: process_kill strikes a whole server and takes no share"),
    (
        "${outage_s}",
        "${outge_s}",
        "method[0].inject.for_s: ${outge_s} is neither in configuration nor in the environment",
    ),
    (", for_s: 5}", "}", "method[1]: wanted for_s once, in the step or in its inject, got neither"),
    ("at_s: 10, ", "", "method[2].at_s: is missing"),
    ("name: slow", "name: kill", "method[1].name: 'kill' is already the name of method[0]"),
    ("probe: psi, max: 0.05", "probe: psi", "method[2]: probe psi wants min, max or equals"),
    ("probe: psi, max", "max", "method[2]: wanted one of inject, action and probe, got none"),
    ("quantile: 0.99", "quantile: nine", "steady_state.probes[1].quantile: wanted a number, got 'nine'"),
    ("quantile: 0.99, ", "", "steady_state.probes[1]: probe latency_s wants either quantile or over"),
    ("max: 0}", "maximum: 0}", "steady_state.probes[0].maximum: is not a known key, did you mean 'max'?"),
    (
        "origin: PRIMARY, min: 0.99",
        "origin: PRIMARI, min: 1",
        "steady_state.probes[2].origin: 'PRIMARI' is not one of NONE, PRIMARY",
    ),
    ("for_s: 15", "for_s: -15", "steady_state.for_s: -15 is not a time of more than zero seconds"),
    ("for_s: 15", "for_s: .inf", "steady_state.for_s: wanted a finite number, got inf"),
    ("rate_per_s: 200", "rate_per_s: 0", "load.rate_per_s: 0 is not within 0..1000000, zero left out"),
    ("min_pairs: 500", "min_pairs: 5.5", "coverage.min_pairs: wanted a whole number, got 5.5"),
    ("after: steady_state", "after: steady", "expect.after: wanted steady_state or a list of probes, got 'steady'"),
    ("within_s: 5, ", "", "recovery.within_s: is missing"),
    ("clock: real", "clock: real\nclock: real", "line 8: the key 'clock' stands twice in one mapping"),
    ("clock: real", "limits: {max_share: 0.2}", "method[1].inject.share: the faults on at 5 s take 0.5 of the traffic"),
    ("target: {kind: local", "target: {kind: service", "target.kind: kind service is not built yet"),
    ("clock: real", "clock: virtual", "clock: the virtual clock is not built yet"),
    ("clock: real", "exposure: shadow", "exposure: exposure shadow is not built yet"),
    ("clock: real", "groups: {experiment: 0.01}", "groups: groups is not built yet"),
    ("clock: real", "window: {days: [tue]}", "window: window is not built yet"),
    (", for_s: 5}", ", for_s: 5, ramp: {from: 0.1, to: 0.2}}", "method[1].ramp: ramp is not built yet"),
    (
        "rollbacks: [{action: clear_all}",
        "rollbacks: [{action: hydrate}",
        "rollbacks[0].action: action hydrate is not built yet",
    ),
    (
        "rollbacks: [{action: clear_all}",
        "rollbacks: [{action: refresh, view: plane}",
        "rollbacks[0].view: view is not built yet",
    ),
    (
        "{probe: no_data_s, max: 5}",
        "{probe: shadow_drops, max: 5}",
        "guards[1].probe: probe shadow_drops is not built yet",
    ),
]


@pytest.mark.parametrize(("right", "wrong", "said"), MISTAKES)
def test_a_mistake_is_told_by_its_path(right: str, wrong: str, said: str) -> None:
    assert right in DRILL

    with pytest.raises(SpecError) as caught:
        parse_script(DRILL.replace(right, wrong, 1))

    assert str(caught.value).startswith(f"drill.yaml: {said}")
    assert "\n" not in str(caught.value)


def test_a_drill_without_a_fault_is_refused() -> None:
    tree = parse_script(DRILL).as_dict()
    tree["method"] = [tree["method"][2]]

    with pytest.raises(SpecError, match="method: wanted at least one step that injects a fault"):
        script_of(tree)


def test_a_value_fault_without_a_share_is_refused() -> None:
    stale = "inject: {fault: stale, view: plane, age_s: 60}"

    with pytest.raises(SpecError, match=r"method\[1\]\.inject\.share: is missing"):
        parse_script(DRILL.replace("inject: {fault: delay, source: standby, delay_s: 0.01, share: 0.5}", stale))


def test_a_drill_on_a_service_is_read_and_refused_by_name() -> None:
    drill = """
    title: user embeddings one day old
    target: {kind: service, endpoints: "file:/etc/fc/instances", token: "${file:/run/secrets/fc_token}"}
    exposure: shadow
    model: {name: ranker-v12, decision: top1}
    groups: {experiment: 0.01, control: 0.01, by: user_id}
    load: none
    steady_state: {for_s: 300, probes: [{probe: watermark_age_s, view: user_embedding, max: 93600}]}
    method:
      - {at_s: 0, name: arm, action: hydrate, view: user_embedding, as_of: "-24h", timeout_s: 600}
      - at_s: 600
        name: day-old
        inject: {fault: stale, view: user_embedding, age_s: 86400, visible: false, lease_s: 60}
        ramp: {from: 0.001, to: 0.01, over_s: 600}
        for_s: 2400
    guards: [{probe: error_rate, group: experiment, against: control, max_ratio: 1.5, alpha: 0.01}]
    """

    with pytest.raises(SpecError, match=r"^drill\.yaml: target\.kind: kind service is not built yet"):
        parse_script(drill)


NAMES = st.text("abcdefgh-$ {}:#'\"%é", min_size=1, max_size=12).filter(str.strip)
SHARES = st.floats(0, 1, allow_nan=False)
SECONDS = st.floats(0.001, 1e6, allow_nan=False)
ORIGINS = st.lists(st.sampled_from(["PRIMARY", "SNAPSHOT", "DEFAULT"]), min_size=1, unique=True)
BOUNDS = st.one_of(
    st.fixed_dictionaries({"max": SHARES}, optional={"margin": SHARES, "alpha": SHARES}),
    st.fixed_dictionaries({"min": SHARES}),
    st.fixed_dictionaries({"equals": SHARES}),
)
KINDS = st.one_of(
    st.fixed_dictionaries({"probe": st.sampled_from(["error_rate", "no_data_s", "degraded_share", "active_faults"])}),
    st.fixed_dictionaries({"probe": st.just("latency_s"), "quantile": SHARES}),
    st.fixed_dictionaries({"probe": st.just("latency_s"), "over": SECONDS}),
    st.fixed_dictionaries({"probe": st.just("origin_share"), "origin": ORIGINS}),
    st.fixed_dictionaries(
        {"probe": st.sampled_from(["flip_rate", "psi"])}, optional={"origin": ORIGINS, "cause": st.just("TIMEOUT")}
    ),
    st.fixed_dictionaries({"probe": st.just("watermark_age_s"), "view": NAMES}),
)
READY = st.fixed_dictionaries({"probe": st.just("ready")}, optional={"full": st.booleans(), "equals": st.booleans()})
PROBES = st.builds(lambda kind, bounds: kind | bounds, KINDS, BOUNDS) | READY
FAULTS = st.one_of(
    st.fixed_dictionaries(
        {"fault": st.just("process_kill"), "source": NAMES}, optional={"restart": st.sampled_from(["empty", "none"])}
    ),
    st.fixed_dictionaries({"fault": st.just("process_freeze"), "source": NAMES}),
    st.fixed_dictionaries(
        {"fault": st.just("outage"), "source": NAMES}, optional={"mode": st.just("hang"), "share": st.floats(0, 0.1)}
    ),
    st.fixed_dictionaries(
        {"fault": st.just("stale"), "view": NAMES, "age_s": SECONDS, "share": st.floats(0, 0.1)},
        optional={"visible": st.booleans(), "control": st.booleans(), "seed": st.integers(0, 99)},
    ),
)


@st.composite
def drills(draw: st.DrawFn) -> dict[str, Any]:
    """A drill file as a mapping, with and without the parts that may be left out."""
    fault = draw(FAULTS)
    steps: list[dict[str, Any]] = [{"at_s": 0, "name": "first", "inject": fault, "for_s": draw(SECONDS)}]
    if draw(st.booleans()):
        steps.append({"at_s": draw(SECONDS), "name": draw(NAMES.filter(lambda name: name != "first")), **draw(PROBES)})
    tree: dict[str, Any] = {
        "title": draw(NAMES),
        "load": {"requests": draw(NAMES), "rate_per_s": draw(st.floats(0.1, 1e5))},
        "steady_state": {"for_s": draw(SECONDS), "probes": draw(st.lists(PROBES, min_size=1, max_size=3))},
        "method": steps,
    }
    parts: dict[str, st.SearchStrategy[Any]] = {
        "guards": st.lists(PROBES, max_size=2),
        "expect": st.fixed_dictionaries(
            {"during": st.lists(PROBES, max_size=2)}, optional={"after": st.lists(PROBES, max_size=2)}
        ),
        "recovery": st.builds(lambda probe, within: probe | {"within_s": within}, PROBES, SECONDS),
        "coverage": st.fixed_dictionaries(
            {}, optional={"min_requests": st.integers(0, 999), "min_pairs": st.integers(0, 9)}
        ),
        "rollbacks": st.just([{"action": "clear_all"}, {"probe": "active_faults", "equals": 0}]),
        "configuration": st.dictionaries(st.sampled_from(["a", "b"]), st.integers() | NAMES, max_size=2),
        "seed": st.integers(),
    }
    tree |= {key: draw(part) for key, part in parts.items() if draw(st.booleans())}
    return tree


def escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: escaped(each) for key, each in value.items()}
    if isinstance(value, list):
        return [escaped(each) for each in value]
    return value.replace("$", "$$") if isinstance(value, str) else value


@given(drills())
def test_a_script_survives_being_written_and_read(tree: dict[str, Any]) -> None:
    script = parse_script(yaml.safe_dump(escaped(tree)))

    again = parse_script(yaml.safe_dump(script.as_dict(), sort_keys=False, allow_unicode=True))

    assert again == script
    assert isinstance(again, Script)
    assert again.as_dict() == script.as_dict()
