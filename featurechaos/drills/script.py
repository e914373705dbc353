"""A drill as values: what must hold, what is done when, what is expected, and when it counts.

The keys are Chaos Toolkit's in snake case. `at_s` counts from the end of the *before* check. Phases:
before, during (first fault applied to last cleared), after (from `recovery.within_s` past that).
`guards` stop a drill, `expect` judges it, `coverage` says whether it saw enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, SerializeAsAny, SerializerFunctionWrapHandler, model_serializer, model_validator

from featurechaos.drills.faults import FaultSpec
from featurechaos.drills.probes import Probe
from featurechaos.drills.values import Count, Duration, Rate, Seconds, Seed, Share, Spec, Text

STEADY: Literal["steady_state"] = "steady_state"


class Target(Spec):
    """What is drilled: `local` servers that the drill starts, or a running `service`."""

    kind: Literal["local", "service"] = "local"
    world: Text | None = None
    endpoints: Text | None = None
    token: Text | None = None


class Model(Spec):
    """What scores: `predict` as `package.module:name` with its decision threshold, or a registered `name`."""

    predict: Text | None = None
    threshold: float = 0.5
    name: Text | None = None
    decision: Text | None = None


class Load(Spec):
    """Who asks: `requests` as `package.module:name` or a .jsonl file, open loop at `rate_per_s`."""

    requests: Text
    rate_per_s: Rate
    arrivals: Literal["poisson", "uniform"] = "poisson"
    entities: Count = 1


class Reference(Spec):
    """Where clean features come from while the store itself is gone: a source outside `order`."""

    source: Text


class SteadyState(Spec):
    """What holds when all is well; asked before and after for `for_s`."""

    title: Text = "steady state"
    for_s: Duration
    probes: tuple[SerializeAsAny[Probe], ...]


class _Flat(Spec):
    """A probe and something about it, written as one mapping."""

    check: SerializeAsAny[Probe]

    @model_serializer(mode="wrap")
    def _flattened(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        body: dict[str, Any] = handler(self)
        check = body.pop("check")
        return {**{key: value for key, value in body.items() if not self._says_nothing(key)}, **check}


class Recovery(_Flat):
    """After the last fault ends the probe must hold for good within `within_s`, lost again `no_flap` times at most."""

    within_s: Duration
    no_flap: Count | None = None


class Action(Spec):
    """Something done that is no fault: `hydrate` a view `as_of` a time, `refresh`, `clear_all`."""

    action: Literal["clear_all", "hydrate", "refresh"]
    view: Text | None = None
    as_of: Text | None = None
    timeout_s: Duration = 60.0


class Step(Spec):
    """One line of the method, `at_s` after the before check. Exactly one of inject, action, check is set."""

    at_s: Seconds
    name: Text
    inject: SerializeAsAny[FaultSpec] | None = None
    do: Action | None = None
    check: SerializeAsAny[Probe] | None = None
    for_s: Duration | None = None
    ramp: dict[str, float] | None = None

    @property
    def duration_s(self) -> float:
        """How long an injected fault lasts; 0 for anything else."""
        return self.for_s or (self.inject.for_s if self.inject else None) or 0.0

    @property
    def end_s(self) -> float:
        return self.at_s + self.duration_s

    @model_validator(mode="after")
    def _knows_its_end(self) -> Step:
        if self.inject and (self.for_s is None) == (self.inject.for_s is None):
            came = "neither" if self.for_s is None else "both"
            msg = f"wanted for_s once, in the step or in its inject, got {came}"
            raise ValueError(msg)
        if not self.inject and (self.for_s or self.ramp):
            msg = "for_s and ramp belong to a step that injects"
            raise ValueError(msg)
        return self

    @model_serializer(mode="wrap")
    def _flattened(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        body: dict[str, Any] = handler(self)
        parts = [body.pop("do") or {}, body.pop("check") or {}]
        kept = {key: value for key, value in body.items() if not self._says_nothing(key)}
        return kept | parts[0] | parts[1]


class Expect(Spec):
    """What must be so while the faults are on, and after recovery: `steady_state` again, or a list."""

    during: tuple[SerializeAsAny[Probe], ...] = ()
    after: Literal["steady_state"] | tuple[SerializeAsAny[Probe], ...] = STEADY


class Coverage(Spec):
    """How much must have been seen for a verdict to mean anything; less is inconclusive."""

    min_requests: Count = 100
    min_applied: Count = 1
    min_pairs: Count = 0


class Limits(Spec):
    """Hard ends of a drill, whatever the statistics say."""

    max_share: Share = 1.0
    max_faulted_requests: Count | None = None
    max_changed_decisions: Count | None = None
    max_duration_s: Duration | None = None


class ReportSpec(Spec):
    """Where the report goes and in which forms."""

    dir: Text | None = None
    formats: tuple[Literal["html", "md", "json", "junit"], ...] = ("html", "json")
    plots: tuple[Literal["latency", "origins", "flips"], ...] = ("latency", "origins", "flips")
    notify: Text | None = None


class Groups(Spec):
    """Shares of traffic for a drill on a service; not built yet."""

    experiment: Share
    control: Share = 0.0
    by: Text | None = None


class Script(Spec):
    """A whole drill file."""

    title: Text
    description: str = ""
    tags: tuple[Text, ...] = ()
    config: Text | None = None
    target: Target = Target()
    configuration: dict[str, str | float | int | bool | None] = Field(default_factory=dict)
    clock: Literal["real", "virtual"] = "real"
    model: Model | None = None
    reference: Reference | None = None
    load: Load | Literal["none"]
    steady_state: SteadyState
    method: tuple[Step, ...]
    guards: tuple[SerializeAsAny[Probe], ...] = ()
    expect: Expect = Expect()
    recovery: Recovery | None = None
    coverage: Coverage = Coverage()
    rollbacks: tuple[Action | SerializeAsAny[Probe], ...] = ()
    report: ReportSpec = ReportSpec()
    seed: Seed = 0
    limits: Limits = Limits()
    reason: Text | None = None
    exposure: Literal["live", "shadow"] = "live"
    groups: Groups | None = None
    window: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The script as a person would write it in YAML: plain values, defaults left out, dollars doubled."""
        body: dict[str, Any] = _escaped(self.model_dump(mode="json"))
        return body

    @property
    def faults(self) -> tuple[Step, ...]:
        """The steps that inject, in time order."""
        return tuple(sorted((step for step in self.method if step.inject), key=lambda step: step.at_s))

    @property
    def during_s(self) -> float:
        """How long the method takes, from its begin to the end of its last fault or step."""
        return max(step.end_s for step in self.method)

    @property
    def takes_s(self) -> float:
        """How long the drill takes when nothing ends it early."""
        recovery_s = self.recovery.within_s if self.recovery else 0.0
        return 2 * self.steady_state.for_s + self.during_s + recovery_s

    @property
    def after(self) -> tuple[Probe, ...]:
        """What is asked of the time after recovery."""
        return self.steady_state.probes if isinstance(self.expect.after, str) else self.expect.after

    def live_probes(self) -> Iterator[Probe]:
        """The probes that only the runner can ask, each once."""
        asked = (*self.steady_state.probes, *self.expect.during, *self.after, *self.guards)
        seen: list[Probe] = []
        for probe in asked:
            if probe.live and probe not in seen:
                seen.append(probe)
        return iter(seen)


def _escaped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _escaped(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escaped(each) for each in value]
    return value.replace("$", "$$") if isinstance(value, str) else value
