"""The shape of a config as it is written, with the values in force where nothing is written."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

OnMissing = Literal["accept", "fallback", "default"]
OnExpired = Literal["serve", "fallback", "default"]
OnExhausted = Literal["default", "raise"]
Role = Literal["primary", "replica", "snapshot"]

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_MOST_PORT = 65535


def _not_bool(value: object) -> object:
    # Python counts True as 1; nobody who writes `attempts: yes` means one attempt.
    if isinstance(value, bool):
        raise PydanticCustomError("float_type", "wanted a number")
    return value


# The bounds stand before the validator, where pydantic knows what they mean in a JSON schema.
_NO_BOOL = BeforeValidator(_not_bool)
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False), _NO_BOOL]
Wait = Annotated[float, Field(ge=0, allow_inf_nan=False), _NO_BOOL]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), _NO_BOOL]
Rate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False), _NO_BOOL]
Count = Annotated[int, Field(ge=1), _NO_BOOL]
Attempts = Annotated[int, Field(ge=1, le=10), _NO_BOOL]
Tokens = Annotated[int, Field(ge=0), _NO_BOOL]
Port = Annotated[int, Field(ge=0, le=_MOST_PORT), _NO_BOOL]


class Spec(BaseModel):
    """A part of a config: frozen, and no keys but the ones it names."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, populate_by_name=False)


class FeatureSpec(Spec):
    """One stored value of a view."""

    dtype: str
    """bool, int32, int64, float32, float64, string, bytes, timestamp, `float32[64]` or `list[float32]`."""
    default: Any = None
    """What rows of origin DEFAULT get; null: nothing."""


class LastKnown(Spec):
    """The rows lately read from online sources, kept in memory."""

    keep_s: Seconds = 900
    """Seconds since the row was last read from an online source."""
    max_rows: Count = 200_000


class Retry(Spec):
    """Asking one source again, within a budget shared by all requests."""

    attempts: Attempts = 2
    """How often one source is asked in all, the first time included."""
    wait_first_s: Wait = 0.002
    """The most to wait before the second attempt; doubles with each further one."""
    budget_ratio: Share = 0.1
    """Tokens each first attempt adds; each retry takes one."""
    budget_burst: Tokens = 3
    """Tokens to start with."""


class Breaker(Spec):
    """Leaving a failing or slow source alone, and coming back to it gently."""

    window_s: Seconds = 10
    """The calls that the rates are of; nothing but failures for a twentieth of it is enough, too."""
    failure_rate: Rate = 0.5
    slow_rate: Rate = 0.8
    slow_s: Seconds = 0.010
    """From when on a call is slow."""
    min_calls: Count = 20
    """Fewer calls are not judged by, nor fewer failures in a row."""
    open_s: Seconds = 1
    """For how long it is then left alone; and the most between two probes that fail."""
    healthy_s: Wait = 1
    """How long probes must go well."""
    ramp_s: Wait = 2
    """How long the share that is let through grows."""


class Empty(Spec):
    """A source that says NOT_FOUND for rows known to exist (a snapshot or last-known has them) is failing past this."""

    share: Rate = 0.1
    """Of the rows known to exist that were read in the window, those it lacks."""
    min_rows: Count = 200
    """Fewer rows known to exist are not judged by; more than half of the last so many are enough at any share."""
    window_s: Seconds = 10


class Hedge(Spec):
    """Asking the replica that is next in the order too, where a source is slower than it usually is."""

    quantile: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False), _NO_BOOL] = 0.95
    """Of the time the source's last 256 calls took: how long it is waited for."""
    after_min_s: Seconds = 0.001
    """The least that it is waited for."""
    after_max_s: Seconds | None = None
    """The most, and before 32 calls are measured; null: half of the source's timeout_s."""


class Shadow(Spec):
    """Reading some healthy answers again from every tier behind the first source, to know what those would cost."""

    share: Share = 0.01
    """Of the requests, drawn by their ids."""
    max_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False), _NO_BOOL] = 10
    """The most requests that are read again in a second: so many reads more for each replica, and no more."""


class Policy(Spec):
    """What is done when a source is slow, down, empty or old."""

    deadline_s: Seconds = 0.050
    order: tuple[str, ...] = ()
    """Sources in the order they are asked; left out: all of them, in file order."""
    retry: Retry | None = Retry()
    breaker: Breaker | None = Breaker()
    empty: Empty | None = Empty()
    hedge: Hedge | None = None
    shadow: Shadow | None = None
    last_known: LastKnown | None = LastKnown()
    on_missing: OnMissing = "accept"
    on_expired: OnExpired = "fallback"
    on_exhausted: OnExhausted = "default"

    @field_validator("order", mode="before")
    @classmethod
    def _order(cls, value: object) -> object:
        return _sources(value)


class ViewPolicySpec(Spec):
    """What one view does differently; a part left out is as in `policy`."""

    order: tuple[str, ...] = ()
    last_known: LastKnown | None = None
    on_missing: OnMissing = "accept"
    on_expired: OnExpired = "fallback"
    on_exhausted: OnExhausted = "default"

    @field_validator("order", mode="before")
    @classmethod
    def _order(cls, value: object) -> object:
        return _sources(value)


class ViewSpec(Spec):
    """Features stored together, or (with `from`) another view under other join keys."""

    name: str
    base: Annotated[str | None, Field(alias="from")] = None
    join_keys: dict[str, str] = {}
    """Name -> dtype; with `from`: column of the entity rows -> join key of that view."""
    features: dict[str, FeatureSpec] = {}
    ttl_s: Seconds | None = None
    """Soft: past it a younger row is looked for; null: never expires."""
    max_age_s: Seconds | None = None
    """Hard: never served past it."""
    policy: ViewPolicySpec | None = None


class Chaos(Spec):
    """Whether faults may be injected here, and how far they may reach."""

    enabled: bool = False
    max_share: Share = 0.05
    """The most that all active faults and their control groups may take together."""
    listen: str | None = None
    """Where faults are taken from other processes: a loopback address, `127.0.0.1:9911`."""

    @field_validator("listen")
    @classmethod
    def _loopback(cls, value: str | None) -> str | None:
        if value is None:
            return None
        host, _, port = value.rpartition(":")
        if host not in _LOOPBACK or not port.isascii() or not port.isdigit() or int(port) > _MOST_PORT:
            msg = f"wanted a loopback address and a port such as 127.0.0.1:9911, got {value!r}"
            raise ValueError(msg)
        return value


class Impact(Spec):
    """How much is scored twice, on served and on clean features."""

    sample_share: Share = 0.02
    flip_budget: Share = 0.02
    """Alarm level of the flip rate; no drill's verdict unless its file says so."""
    reference_source: str | None = None
    """A source that faults leave alone, which holds the same rows."""


class Metrics(Spec):
    """The Prometheus endpoint on loopback."""

    port: Port | None = None
    """null: none; 0: any free port."""


class Core(Spec):
    """A whole config. What a source takes is its store's own business."""

    project: str
    sources: dict[str, dict[str, Any]]
    views: list[ViewSpec]
    services: dict[str, list[str]] | None = None
    policy: Policy = Policy()
    chaos: Chaos | None = Chaos()
    impact: Impact | None = Impact()
    metrics: Metrics | None = Metrics()


def _sources(value: object) -> object:
    if value is None:
        return ()
    if isinstance(value, (list, tuple)) and not value:
        msg = "wanted at least one source, got an empty list"
        raise ValueError(msg)
    return value
