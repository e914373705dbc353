"""`status`, `reload`, `source`, `faults`: a running service seen and steered from outside, over its own endpoints."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from threading import Event
from typing import Annotated, Any

import typer
from rich.text import Text

from featurechaos.cli.opening import CONFIG, Config, Json, settings_of
from featurechaos.cli.output import age, put, put_json, put_table, put_wrapped, say, shown
from featurechaos.config import Settings
from featurechaos.config.mistakes import near
from featurechaos.errors import ChaosRefused, RequestError
from featurechaos.faults import Delay, Fault, Outage, Stale, remote

SOURCE_HELP = "Steer one source of a running service: leave it out, keep what is decided, decide again."
FAULTS_HELP = "Faults in a running service: which are on, turn some on for a while, end all."
_LOOK_S = 5.0
_KINDS: dict[str, type[Outage | Delay | Stale]] = {"outage": Outage, "delay": Delay, "stale": Stale}

Commands = dict[str, tuple[Callable[..., Any], Sequence[str]]]


def _address(at: str | None) -> str | None:
    """What `--at` says, if it is a host and a port."""
    host, _, port = (at or "").rpartition(":")
    if at is not None and not (host and port.isdecimal()):
        msg = f"--at wants HOST:PORT, got {at!r}"
        raise RequestError(msg)
    return at


At = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="HOST:PORT", callback=_address, help="Where the service listens; default: the config's."
    ),
]
Reason = Annotated[str, typer.Option("--reason", metavar="WORDS", help="Why; kept with it and logged there.")]
SourceName = Annotated[str, typer.Argument(metavar="NAME", help="The source.")]


def status(config: Config = CONFIG, at: At = None, as_json: Json = False) -> None:
    """Say what goes on in a running service: who serves, what is kept out and why, since when, what is exercised.

    Asks its control endpoint (chaos.listen, with the token); else, or where that does not tell, its metrics endpoint.
    """
    told = _status_of(settings_of(config), at)
    if as_json:
        put_json(told)
        return
    put(f"{told['project']} ({told['config']}), pid {told['pid']}, at {told['at']}")
    put(f"policy {told['policy']['version']}, loaded {told['policy']['loaded']}")
    if refused := told["policy"]["refused"]:
        put(f"a reload was refused: {refused} (incident {told['policy']['incident']})")
    if told.get("bypass"):
        put("FEATURECHAOS_BYPASS is set: one read of the first source, and nothing else")
    for title, header, rows in _tables(told):
        if rows:
            put_table(header, rows, title=title)
    put(*_without(told))
    if told["faults"]:
        put_wrapped(["fault", "share", "left", "applied", "reason"], [_fault(one) for one in told["faults"]])
    else:
        put("no fault is on")
    if requests := told.get("degraded_requests"):
        put(f"{len(requests)} of the latest requests were served degraded, the last {requests[-1]['request_id']}")


def drain(name: SourceName, reason: Reason, config: Config = CONFIG, at: At = None, as_json: Json = False) -> None:
    """Do not ask this source any more; its rows come from the others. Until `auto`, or the end of the service."""
    _steer(name, "drain", reason, config, at, as_json=as_json)


def hold(name: SourceName, reason: Reason, config: Config = CONFIG, at: At = None, as_json: Json = False) -> None:
    """Keep what is decided now: a closed breaker stays closed, an open one open. Until `auto`."""
    _steer(name, "hold", reason, config, at, as_json=as_json)


def auto(
    name: SourceName, reason: Reason = "back to normal", config: Config = CONFIG, at: At = None, as_json: Json = False
) -> None:
    """Decide on this source by itself again."""
    _steer(name, "auto", reason, config, at, as_json=as_json)


def reload(config: Config = CONFIG, at: At = None, as_json: Json = False) -> None:
    """Have a running service read its own config anew, and serve under its policy without a restart.

    What it may not take leaves it as it is, and is told in one sentence.
    """
    told = remote.reload(*_control(settings_of(config), at))
    if as_json:
        put_json(told)
        return
    for line in told["changed"] or ["nothing has changed"]:
        put(line)
    say(f"policy {told['version']} is in force")


def listing(config: Config = CONFIG, at: At = None, as_json: Json = False) -> None:
    """List the faults that are on."""
    endpoint, token = _control(settings_of(config), at)
    faults = remote.listed(endpoint, token)
    if as_json:
        put_json(faults)
    elif faults:
        put_wrapped(["fault", "share", "left", "applied", "reason"], [_fault(one) for one in faults])
    else:
        put("no fault is on")


def on(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="outage, delay or stale.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The source, or for stale the view.")],
    *,
    share: Annotated[float, typer.Option("--share", metavar="SHARE", min=0, max=1, help="Of requests or keys.")],
    reason: Reason,
    lease: Annotated[
        float, typer.Option("--for", metavar="SECONDS", min=0.001, help="How long at most; ends with this command too.")
    ] = 60.0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="What the choice of victims is drawn from.")] = 7,
    arguments: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An argument: delay_s=0.02, age_s=86400.")
    ] = None,
    control: Annotated[bool, typer.Option("--control/--no-control", help="Keep a group that is spared.")] = True,
    config: Config = CONFIG,
    at: At = None,
) -> None:
    """Turn a fault on, and hold it: it ends with its time, with Ctrl-C, or with this process."""
    endpoint, token = _control(settings_of(config), at)
    fault = _fault_of(kind, target, arguments or [])
    with _stoppable() as stop, remote.hold(
        endpoint, token, fault, share=share, lease_s=lease, seed=seed, reason=reason, control=control
    ) as held:  # fmt: skip
        say(f"{fault.name} is on for at most {lease:g} s; Ctrl-C ends it")
        stop.wait(lease)
    put(f"{fault.name} is off ({held.state}): applied {held.applied}, spared {held.control}, missed {held.not_applied}")


def off(config: Config = CONFIG, at: At = None, as_json: Json = False) -> None:
    """End every fault, whoever holds it."""
    endpoint, token = _control(settings_of(config), at)
    cleared = remote.clear(endpoint, token)
    if as_json:
        put_json({"cleared": cleared})
    else:
        put(f"{cleared} ended" if cleared else "no fault was on")


@contextmanager
def _stoppable() -> Iterator[Event]:
    """An event that Ctrl-C sets."""
    stop = Event()
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _fault_of(kind: str, target: str, arguments: Sequence[str]) -> Fault:
    """A fault from words; RequestError for what is none."""
    if kind not in _KINDS:
        msg = f"there is no fault {kind!r}, {near(kind, _KINDS)}"
        raise RequestError(msg)
    given: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            msg = f"--set wants NAME=VALUE, got {argument!r}"
            raise RequestError(msg)
        try:
            given[name] = json.loads(value)
        except ValueError:
            given[name] = value
    known = [each for each in fields(_KINDS[kind]) if each.name not in {"source", "view"}]
    for name in given.keys() - {each.name for each in known}:
        msg = f"{kind} has no argument {name!r}, {near(name, [each.name for each in known])}"
        raise RequestError(msg)
    for each in known:
        if each.default is MISSING and each.name not in given:
            msg = f"{kind} wants --set {each.name}=VALUE"
            raise RequestError(msg)
    try:
        return _KINDS[kind](target, **given)
    except (TypeError, ValueError) as error:
        msg = f"{kind}: {str(error).partition('() ')[2] or error}"
        raise RequestError(msg) from None


def _steer(name: str, order: str, reason: str, config: Any, at: str | None, *, as_json: bool) -> None:
    endpoint, token = _control(settings_of(config), at)
    told = remote.steer(endpoint, token, name, order, reason=reason)
    if as_json:
        put_json(told)
        return
    put(f"source {name!r}: {order}")
    if told["views"]:
        say(f"no online source is left for {', '.join(told['views'])}: snapshots, last known rows and defaults serve")


def _control(settings: Settings, at: str | None) -> tuple[str, str]:
    """The control endpoint of a service, and the token; RequestError says what is missing."""
    address, token = at or settings.chaos.listen, settings.chaos_token
    if address is None or address.endswith(":0"):
        msg = (
            f"{settings.name}: chaos.listen names no port a service can be reached at; write one, or use --at HOST:PORT"
        )
        raise RequestError(msg)
    if token is None:
        raise RequestError("this wants the service's token in the environment variable FEATURECHAOS_TOKEN")
    return f"http://{address}/faults", token


def _status_of(settings: Settings, at: str | None) -> dict[str, Any]:
    """From the control endpoint; where there is none to ask, or it does not tell, from the metrics endpoint."""
    port = settings.metrics.port
    if settings.chaos_token is None or (at or settings.chaos.listen) is None:
        if at is None and not port:
            msg = f"{settings.name}: neither metrics.port nor chaos.listen (with FEATURECHAOS_TOKEN) says where to ask"
            raise RequestError(msg)
        return _page_at(at or f"127.0.0.1:{port}")
    try:
        return remote.status(*_control(settings, at))
    except (ChaosRefused, RequestError) as error:
        if at is not None:  # It may be anybody's; the config's own port need not be.
            raise
        why = error
    if not port:
        raise type(why)(f"{why}; {settings.name} names no metrics.port to be asked without a token") from why
    try:
        told = _page_at(f"127.0.0.1:{port}")
    except ChaosRefused as error:
        raise ChaosRefused(f"{why}; {error}") from error
    say(f"featurechaos: {why}; so this is from the metrics endpoint, without the ids of requests")
    return told


def _page_at(address: str) -> dict[str, Any]:
    """The status page of a metrics endpoint."""
    url = f"http://{address}/status"
    try:
        with urllib.request.urlopen(url, timeout=_LOOK_S) as answer:
            told: dict[str, Any] = json.loads(answer.read())
    except (OSError, urllib.error.URLError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        hint = "; is the service up, and has it begun to read?" if isinstance(reason, ConnectionRefusedError) else ""
        raise ChaosRefused(f"status at {url}: no answer: {reason}{hint}") from error
    return told


def _tables(told: dict[str, Any]) -> Iterator[tuple[str, list[str], list[list[Text | str]]]]:
    views = [
        [view, one["serves"], _counts(one["rows"]), _replica(one)] for view, one in told["views"].items()
    ]  # fmt: skip
    yield "Views", ["view", "served by", "rows so far", "replica"], views
    sources = []
    for name, one in told["sources"].items():
        if "state" in one:
            sources.append(_source(name, one))
            sources += [_source(shard, {**_SHARD, **each}) for shard, each in one.get("shards", {}).items()]
    yield "Sources", ["source", "state", "order", "since", "why", "incident"], sources
    over = [
        [one["id"], one["state"], one["began"], one["ended"] or "goes on", shown(one["reason"] or "-")]
        for one in told["incidents"]
    ]
    yield "Incidents", ["incident", "state", "began", "ended", "last heard"], over


def _without(told: dict[str, Any]) -> Iterator[str]:
    """What each view would get without its first source, as it was found lately on healthy answers."""
    for view, tiers in ((told.get("shadow") or {}).get("views") or {}).items():
        first = told["views"][view]["order"][0]
        yield f"{view}, if {first} went away now: {'; '.join(map(_tier, tiers))}"
    for model, prices in ((told.get("shadow") or {}).get("models") or {}).items():
        flips = [
            f"{_percent(one['flip_rate'])} on {name.replace('_', ' ') if name == 'last_known' else name}"
            for name, one in prices.items()
            if one["pairs"]
        ]
        if flips:
            yield f"decisions of model {model} that would be others: {', '.join(flips)}"


def _tier(one: dict[str, Any]) -> str:
    name = one["tier"].replace("_", " ") if one["origin"] in {"LAST_KNOWN", "DEFAULT"} else one["tier"]
    if not one["answered"]:
        return f"{name} answers no row" if one["rows"] else f"{name} is not known yet"
    behind = "" if one["behind_s"] is None else f", {age(one['behind_s'])} behind"
    return f"{name} answers {_percent(one['answered'])} of rows, {_percent(one['other'])} of them other values{behind}"


def _percent(share: float) -> str:
    """A share that is all or nothing only if it is."""
    shown_as = f"{100 * share:.1f}"
    if shown_as in {"0.0", "100.0"} and share not in {0, 1}:
        return "under 0.1 %" if share < 1 / 2 else "over 99.9 %"
    return f"{shown_as.removesuffix('.0')} %"


_SHARD = {"order": "", "is_empty": False}
"""What a shard has not of its own."""


def _source(name: str, one: dict[str, Any]) -> list[Text | str]:
    state = Text(one["state"] + (", without its data" if one["is_empty"] else ""))
    if one["state"] != "closed" or one["is_empty"]:
        state.stylize("bold yellow")
    return [name, state, one["order"], one["since"] or "-", shown(one["why"] or "-"), one["incident"] or "-"]


def _counts(rows: dict[str, int]) -> str:
    return ", ".join(f"{origin} {count:,}" for origin, count in rows.items()) or "-"


def _replica(one: dict[str, Any]) -> str:
    return "-" if one["replica_age_s"] is None else f"{age(one['replica_age_s'])} old"


def _fault(one: dict[str, Any]) -> list[Text | str]:
    target = one.get("source") or one.get("view")
    return [f"{one['fault']}:{target}", f"{one['share']:g}", f"{one['left_s']:g} s", str(one["applied"]),
            shown(one["reason"])]  # fmt: skip


COMMANDS: Commands = {
    "status": (status, ["featurechaos status", "featurechaos status --at 127.0.0.1:9464 --json"]),
    "reload": (reload, ["featurechaos reload", "featurechaos reload --at 127.0.0.1:9911 --json"]),
}
SOURCE_COMMANDS: Commands = {
    "drain": (drain, ["featurechaos source drain primary --reason 'disk swap, change 4711'"]),
    "hold": (hold, ["featurechaos source hold primary --reason 'it flaps; look first'"]),
    "auto": (auto, ["featurechaos source auto primary"]),
}
FAULTS_COMMANDS: Commands = {
    "list": (listing, ["featurechaos faults list"]),
    "on": (
        on,
        [
            "featurechaos faults on outage primary --share 0.01 --for 300 --reason 'does the fallback hold?'",
            "featurechaos faults on delay primary --set delay_s=0.02 --share 0.01 --reason 'a slow network'",
        ],
    ),
    "off": (off, ["featurechaos faults off"]),
}
