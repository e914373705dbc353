"""`doctor`: a config held against the world it is for, one line a check, each with what to do about it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from threading import Event
from typing import Any, Literal

import numpy as np

from featurechaos.cli.ids import keys_of
from featurechaos.cli.opening import CONFIG, Config, Json, opened, settings_of
from featurechaos.cli.output import age, put, put_json
from featurechaos.cli.progress import Working
from featurechaos.client import FeatureClient
from featurechaos.codec import decode
from featurechaos.config import Settings, Source
from featurechaos.engine import readable
from featurechaos.errors import FeatureError, StoreRefused
from featurechaos.model import NO_TIME_US, Verdict, View
from featurechaos.stores import Ask
from featurechaos.tables import FUTURE_US

REACH_S = 3.0
READS = 60
SAMPLE = 100
SCAN_S = 3.0
RATE = 20_000.0
SKEW_S = 1.0

Level = Literal["ok", "warn", "fail"]
Sample = tuple[list[bytes], list[bytes]]
"""Ids of stored rows, and the rows."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found of one thing, and what to do about it if anything."""

    level: Level
    check: str
    about: str
    says: str
    do: str = ""

    def line(self) -> str:
        return f"{self.level:<4}  {self.check:<9} {self.about}: {self.says}" + (f" -> {self.do}" if self.do else "")


class _EnoughError(Exception):
    """A walk over a store has taken long enough."""


def doctor(config: Config = CONFIG, as_json: Json = False) -> int:
    """Check a config against the real world: sources, latencies, clocks, stored rows, snapshots, this process.

    Reads only. Exit code 1 if a check failed, 0 if there is nothing worse than a warning.
    """
    settings = settings_of(config)
    findings = []
    with opened(settings) as client:
        for finding in examined(settings, client):
            findings.append(finding)
            if not as_json:
                put(finding.line())
    if as_json:
        put_json([asdict(finding) for finding in findings])
    else:
        counts = [sum(one.level == level for one in findings) for level in ("ok", "warn", "fail")]
        put("", "{} fine, {} to look at, {} to put right".format(*counts))
    return int(any(one.level == "fail" for one in findings))


def examined(settings: Settings, client: FeatureClient) -> Iterator[Finding]:
    """Every check, in the order in which one explains the next."""
    yield from _plans(settings)
    for name, source in settings.sources.items():
        if not source.is_online:
            continue
        with Working(f"asking {name}"):
            reached = _reached(client, name)
        yield reached
        if reached.level != "fail":
            with Working(f"measuring {name}"):
                found = [*_stored(settings, client, source), *_clock(client, name)]
            yield from found
    for name, source in settings.sources.items():
        if hasattr(source.store_class, "publish"):
            with Working(f"asking {name} for its images"):
                found = list(_images(settings, client, name))
            yield from found
    yield from _process(settings, client)


def _plans(settings: Settings) -> Iterator[Finding]:
    """Whether there is anything behind the first source, and what is switched in the environment."""
    for view, policy in settings.policies.items():
        behind = [*policy.online[1:], *policy.local, *(["last known rows"] if policy.last_known else [])]
        if len(policy.online) + len(policy.local) > 1:
            yield Finding("ok", "plan", f"view {view!r}", f"{policy.order[0]}, then {', '.join(behind)}")
        else:
            yield Finding(
                "warn", "plan", f"view {view!r}", f"behind {policy.order[0]} there is no other source",
                "add a replica, or a source of type s3 with snapshots",
            )  # fmt: skip
    if settings.is_bypassed:
        yield Finding("warn", "switch", "FEATURECHAOS_BYPASS", "it is 1: nothing but plain reads", "unset it")
    if settings.chaos.enabled and settings.is_armed:
        share = f"faults may take up to {settings.chaos.max_share:.0%} of what is read"
        yield Finding("warn", "switch", "chaos", share, "unset FEATURECHAOS_CHAOS where no drill is wanted")


def _reached(client: FeatureClient, name: str) -> Finding:
    """Whether a source answers at all, connecting included, and may be read."""
    clock, store = client.clock, client.store(name)
    begun = clock.monotonic()
    try:
        store.layouts(client.settings.project, [0], begun + REACH_S)
    except StoreRefused as error:
        do = f"let its user read fc:{client.settings.project}:* (MGET, GET, SCAN)"
        return Finding("fail", "reach", name, f"it refuses us: {error}", do)
    except FeatureError as error:
        return Finding("fail", "reach", name, f"no answer: {error}", "is it up, and are its address and port right?")
    return Finding("ok", "reach", name, f"it answers; connecting took {_ms(clock.monotonic() - begun)}")


def _stored(settings: Settings, client: FeatureClient, source: Source) -> Iterator[Finding]:
    """What is stored of each view, how sound and how old it is; and how long a read of it takes."""
    asks = []
    for view in settings.views.values():
        is_asked = source.name in settings.policies[view.name].online
        if view.name == view.base and (is_asked or source.name == settings.impact.reference_source):
            try:
                sample = _sample(client, source.name, view)
            except FeatureError as error:
                yield Finding("fail", "rows", f"{source.name}, view {view.name!r}", str(error), "may its user SCAN?")
                continue
            if sample is None:
                yield Finding("ok", "rows", f"{source.name}, view {view.name!r}", "this store cannot list its rows")
                continue
            findings, ask = _judged(client, source.name, view, sample)
            yield from findings
            asks += [ask] if ask is not None else []
    yield from _timed(client, source, asks)


def _sample(client: FeatureClient, name: str, view: View) -> Sample | None:
    """Some rows of a view as they are met, looked for for a few seconds at most; None if a store can't list them."""
    store: Any = client.store(name)
    if not callable(getattr(store, "rows", None)) or not hasattr(store, "watermark"):
        return None
    until = client.clock.monotonic() + SCAN_S

    def wait(seconds: float) -> None:
        if client.clock.monotonic() > until:
            raise _EnoughError
        Event().wait(seconds)

    found: dict[bytes, bytes] = {}
    try:
        for ids, blobs in store.rows(view, rows_per_s=RATE, wait=wait):
            found.update((key, blob) for key, blob in zip(ids, blobs, strict=True) if blob is not None)
            if len(found) >= SAMPLE:
                break
    except _EnoughError:
        pass
    return list(found)[:SAMPLE], list(found.values())[:SAMPLE]


def _judged(client: FeatureClient, name: str, view: View, sample: Sample) -> tuple[list[Finding], Ask | None]:
    """What a sample of rows says of a view."""
    about, (ids, blobs) = f"{name}, view {view.name!r}", sample
    if not ids:
        looks = getattr(client.store(name), "key_pattern", None)  # rows that others write have keys of their own
        keys_are = f"look like {looks(view)!r}" if looks else f"begin with {view.head.decode()!r}"
        do = f"write some, or look for another project or database: keys {keys_are}"
        return [Finding("warn", "rows", about, "no row is stored", do)], None
    layout = client._serving.layouts[view.name]  # noqa: SLF001 - a tool of this package
    columns, keys, kept = keys_of(view.join_keys, ids)
    known = dict(client._serving.known)  # noqa: SLF001 - as above
    sampled: list[bytes | None] = [blobs[at] for at in kept]
    rows, unknown = decode(sampled, keys.own, layout, known)
    if unknown:
        known |= readable(client.store(name).layouts(view.project, sorted(unknown), client.clock.monotonic() + REACH_S))
        rows, unknown = decode(sampled, keys.own, layout, known)
    sound = (rows.verdicts == Verdict.FRESH) | (rows.verdicts == Verdict.BURIED)
    foreign, bad = len(ids) - len(kept), int((~sound).sum())
    findings = []
    if foreign or bad:
        first = int(np.argmax(~sound)) if bad else 0
        named = zip((key.column for key in view.join_keys), (column[first] for column in columns), strict=True)
        such = ", ".join(f"{name}={value!r:.60}" for name, value in named) if bad else ""
        why = [f"{foreign} have keys that are not of {view.name!r}"] if foreign else []
        why += (
            [f"{bad} damaged{f' or of {len(unknown)} unknown schemas' if unknown else ''}, such as {such}"]
            if bad
            else []
        )
        says = f"of {len(ids)} sampled rows {', '.join(why)}"
        is_others = hasattr(client.store(name), "key_pattern")
        do = (
            "look at it: is each cell a value of its dtype?" if is_others else "do writer and reader share this config?"
        )
        findings.append(Finding("fail", "rows", about, says, do))
    else:
        findings.append(Finding("ok", "rows", about, f"{len(ids)} sampled rows are sound"))
    dated = rows.event_time[sound & (rows.event_time != NO_TIME_US)]
    if len(dated):
        findings.append(_aged(client, about, view, dated))
    elif sound.any() and (view.ttl_s is not None or view.max_age_s is not None):
        says = "no sampled row has an event time, so all count as too old"
        findings.append(Finding("fail", "age", about, says, "write the time, or leave ttl_s and max_age_s out"))
    return findings, Ask(view, layout, keys)


def _aged(client: FeatureClient, about: str, view: View, event_time: Any) -> Finding:
    """How old the sampled rows are beside what the view allows."""
    ages_s = client.clock.wall() - event_time / 1e6
    youngest_s, middle_s = float(ages_s.min()), float(np.median(ages_s))
    says = f"sampled rows are {age(max(0.0, middle_s))} old in the middle, the youngest {age(max(0.0, youngest_s))}"
    if youngest_s < -FUTURE_US / 1e6:
        return Finding("fail", "age", about, "rows are dated in the future", "put the writer's clock or dates right")
    if view.max_age_s is not None and youngest_s > view.max_age_s:
        return Finding("fail", "age", about, f"{says}: past max_age_s, none is served", "is the pipeline running?")
    if view.ttl_s is not None and middle_s > view.ttl_s:
        return Finding("warn", "age", about, f"{says}; ttl_s is {view.ttl_s:g}", "is the pipeline running?")
    return Finding("ok", "age", about, says)


def _timed(client: FeatureClient, source: Source, asks: Sequence[Ask]) -> Iterator[Finding]:
    """How long a warm read takes beside what it may."""
    clock, store, policy = client.clock, client.store(source.name), client.settings.policy
    timeout_s = client._serving.timeouts[source.name]  # noqa: SLF001 - a tool of this package
    took_s = []
    try:
        for _ in range(READS):
            begun = clock.monotonic()
            if asks:
                store.read(asks, begun + REACH_S)
            else:
                store.layouts(client.settings.project, [0], begun + REACH_S)
            took_s.append(clock.monotonic() - begun)
    except FeatureError as error:
        yield Finding("fail", "latency", source.name, f"a read failed: {error}", "may its user MGET these keys?")
        return
    middle_s, most_s = float(np.median(took_s)), float(np.quantile(took_s, 0.95))
    what = f"{sum(len(ask.keys) for ask in asks)} rows" if asks else "a small question"
    says = (
        f"{what} took {_ms(middle_s)} in the middle, {_ms(most_s)} at the 95th percentile; timeout_s is {timeout_s:g}"
    )
    if middle_s >= timeout_s:
        yield Finding("fail", "latency", source.name, says, f"raise its timeout_s past {_ms(2 * most_s)}")
    elif most_s >= timeout_s / 2:
        yield Finding("warn", "latency", source.name, says, "little room is left: raise timeout_s, or look at the way")
    elif policy.breaker is not None and middle_s >= policy.breaker.slow_s:
        slow = f"{says}; the breaker calls {policy.breaker.slow_s:g} slow"
        yield Finding("warn", "latency", source.name, slow, "raise policy.breaker.slow_s, or it will open")
    else:
        yield Finding("ok", "latency", source.name, says)


def _clock(client: FeatureClient, name: str) -> Iterator[Finding]:
    """Whether a server's clock is ours, where it tells."""
    clock, store = client.clock, client.store(name)
    ask = getattr(store, "server_time", None)
    if ask is None:
        return
    begun, wall = clock.monotonic(), clock.wall()
    try:
        there = ask(begun + REACH_S)
    except FeatureError as error:
        yield Finding("warn", "clock", name, f"it does not tell the time: {error}", "let its user call TIME")
        return
    took_s = clock.monotonic() - begun
    skew_s = there - (wall + took_s / 2)
    says = f"its clock is {abs(skew_s) * 1000:.0f} ms {'ahead' if skew_s > 0 else 'behind'}"
    if abs(skew_s) < SKEW_S + took_s / 2:
        yield Finding("ok", "clock", name, says)
    else:
        level: Level = "fail" if abs(skew_s) > FUTURE_US / 1e6 else "warn"
        yield Finding(level, "clock", name, says, "ages are taken by this machine's clock: run NTP on both")


def _images(settings: Settings, client: FeatureClient, name: str) -> Iterator[Finding]:
    """Whether there is an image of each view, and how old it is beside what the view allows."""
    store = client.snapshot_store(name)
    for view in settings.views.values():
        if view.name != view.base or name not in settings.policies[view.name].local:
            continue
        about = f"{name}, view {view.name!r}"
        try:
            images = store.snapshots(view.name)
        except StoreRefused as error:
            yield Finding("fail", "snapshot", about, f"it refuses us: {error}", "allow GetObject and ListBucket there")
            continue
        except FeatureError as error:
            yield Finding(
                "fail", "snapshot", about, f"no answer: {error}", "is the endpoint right, is the bucket there?"
            )
            continue
        if not images:
            online = next(iter(settings.policies[view.name].online), "SOURCE")
            do = f"featurechaos snapshot publish {view.name} --from {online}"
            yield Finding("warn", "snapshot", about, "there is no image: nothing serves when the rest is down", do)
            continue
        newest = max(images, key=lambda one: one.as_of_us)
        old_s = max(0.0, client.clock.wall() - newest.as_of_us / 1e6)
        says = f"the newest image has {newest.rows:,} rows and is {age(old_s)} old"
        if view.max_age_s is not None and old_s > view.max_age_s:
            yield Finding("fail", "snapshot", about, f"{says}: past max_age_s, none is served", "publish more often")
        elif view.ttl_s is not None and old_s > view.ttl_s:
            yield Finding("warn", "snapshot", about, f"{says}: its rows will be EXPIRED", "publish more often")
        else:
            yield Finding("ok", "snapshot", about, says)


def _process(settings: Settings, client: FeatureClient) -> Iterator[Finding]:
    """What this kind of process costs a read beside the sources."""
    clock = client.clock
    begun = clock.monotonic()
    gc.collect()
    pause_s = clock.monotonic() - begun
    says = f"a full garbage collection takes {_ms(pause_s)} here, with little loaded; the deadline is "
    says += _ms(settings.policy.deadline_s)
    do = "once all is loaded call client.ready(freeze=True), which is gc.freeze()"
    yield Finding("warn" if pause_s > settings.policy.deadline_s / 2 else "ok", "pause", "this process", says, do)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"


COMMANDS: dict[str, tuple[Callable[..., Any], Sequence[str]]] = {
    "doctor": (doctor, ["featurechaos doctor", "featurechaos doctor --config prod.yaml --json"]),
}
