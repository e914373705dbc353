"""Play a drill: load and faults under one clock, one history, and every fault undone on every path."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from featurechaos.client import FeatureClient
from featurechaos.clock import SystemClock
from featurechaos.config import Metrics, Settings
from featurechaos.config import load as load_config
from featurechaos.drills.checks import Outcome, compare
from featurechaos.drills.guards import guards_of
from featurechaos.drills.history import (
    Calls,
    End,
    Fault,
    GuardState,
    History,
    HistoryWriter,
    Note,
    Pair,
    Phase,
    Record,
    Request,
    Sample,
    Start,
    read_history,
    redacted,
)
from featurechaos.drills.load import Generator, told_error
from featurechaos.drills.probes import ActiveFaults, Probe, Ready
from featurechaos.drills.report import HISTORY, write_report
from featurechaos.drills.script import Action, Script, Step
from featurechaos.drills.stage import Stage, stage_of
from featurechaos.drills.strike import Strike, process_of, strike
from featurechaos.drills.verdict import Verdict, did_not_apply, invalid, judge
from featurechaos.drills.window import Window
from featurechaos.drills.worlds import open_world
from featurechaos.errors import FeatureError, SpecError
from featurechaos.version import VERSION

TICK_S = 0.25
_CALLS_EVERY_S = 1.0
_TOLD = ("breaker.opened", "breaker.ramping", "breaker.closed", "schema.learned")
_OLD = (HISTORY, "verdict.json", "report.html", "report.md", "report.xml")


class Interrupted(Exception):
    """A signal asked the drill to end."""


def run_drill(
    script: Script,
    *,
    directory: Path,
    config: str | None = None,
    seed: int | None = None,
    progress: Callable[[str], None] | None = None,
    open_stage: Callable[[Script], Stage] | None = None,
) -> tuple[Verdict, Path | None]:
    """Play a script, judge what happened and write the report.

    Args:
        directory: where report.html, history.jsonl and verdict.json go; an older report there is replaced.
        config: the client's config file, instead of the script's own.
        seed: instead of the script's own.
        progress: hears a line for each thing that happens.
        open_stage: makes what the drill is played on; default: by `target`.

    Returns:
        The verdict, and the report's path (None where there was nothing to report).
    """
    say = progress or (lambda line: None)
    if seed is not None:
        script = script.model_copy(update={"seed": seed})
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return invalid(f"report: {directory}: {error.strerror or error}", title=script.title), None
    try:
        stage = (open_stage or _stage(config, say))(script)
    except FeatureError as error:
        return invalid(str(error), title=script.title), None
    with closing(stage):
        if missing := _missing(script, stage):
            return invalid(missing, title=script.title), None
        if refused := _refused(script, stage):
            return Verdict(Outcome.INCONCLUSIVE, script.title, refused), None
        for name in _OLD:
            (directory / name).unlink(missing_ok=True)
        with HistoryWriter(directory / HISTORY) as writer:
            Run(script, stage, writer, say).play()
    history = read_history(directory / HISTORY)
    verdict = judge(history, script)
    return verdict, write_report(history, script, verdict, directory)


def _stage(config: str | None, say: Callable[[str], None]) -> Callable[[Script], Stage]:
    """What a drill is played on by its `target`: the flights world, or a client of the user's own config."""

    def opened(script: Script) -> Stage:
        if script.target.world is not None:
            return open_world(script.target.world, script, config, say)
        path = config or script.config
        if path is None:
            raise SpecError("config: wanted the client's config file, got none")
        return stage_of(script, FeatureClient(_alone(load_config(path))))

    return opened


def _alone(settings: Settings) -> Settings:
    """The settings without the ports that are the running service's own."""
    return replace(settings, metrics=Metrics(), chaos=settings.chaos.model_copy(update={"listen": None}))


def _missing(script: Script, stage: Stage) -> str:
    """What a fault of the script would have no hold on, in words; nothing if all is there."""
    settings = stage.client.settings
    try:
        for step in script.faults:
            fault = step.inject
            if fault is None:
                continue
            kind, known = ("view", settings.views) if hasattr(fault, "view") else ("source", settings.sources)
            if fault.target not in known:
                return f"{step.name}: inject.{kind}: wanted one of {', '.join(known)}, got {fault.target!r}"
            if fault.is_process:
                process_of(fault, stage)
    except SpecError as error:
        return str(error)
    return ""


def _refused(script: Script, stage: Stage) -> str:
    """Which fault could not be injected, and why, as the verdict would say it in the end; nothing if all may be."""
    why = stage.client.chaos.refusal
    first = next((step for step in script.faults if step.inject is not None and not step.inject.is_process), None)
    return did_not_apply(first.name, why) if first is not None and why else ""


class Run:
    """One play of a script. Everything that happens goes into the history; the verdict is made from that alone."""

    def __init__(self, script: Script, stage: Stage, writer: HistoryWriter, say: Callable[[str], None]) -> None:
        self.script, self.stage, self._said = script, stage, say
        self._writer = writer
        self._clock = SystemClock()
        self._began = self._clock.monotonic()
        self._strikes: dict[str, tuple[Step, Strike, float]] = {}
        self._recent: list[Record] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._answered = self._since_calls = 0
        self._attempts: Counter[str] = Counter()
        self._calls_at = 0.0
        self._guards = guards_of(script)
        self._looked_at = 0.0
        self._faulted = self._flips = 0
        self._tripped = ""
        self._reason, self._detail = "error", ""

    def say(self, line: str) -> None:
        """Tell a line; a listener that is gone keeps no fault from being undone."""
        with suppress(OSError):
            self._said(line)

    def play(self) -> None:
        """From the first request to the last; the history ends with why it ended."""
        assert self.script.load != "none"
        self.stage.client.listen(self._heard)
        self._begin()
        generator = Generator(
            self.stage,
            self.script.load,
            seed=self.script.seed,
            writer=self._writer,
            began=self._began,
            on_record=self._took,
        )
        with _heeding(self._stop), ExitStack() as ending:  # each is called whatever the one before it raised
            ending.callback(self._end)
            ending.callback(self._tell_calls)
            ending.callback(generator.stop)
            ending.callback(self._undo_all)
            try:
                generator.start()
                self._reason, self._detail = self._phases()
            except Interrupted:
                self._reason, self._detail = "interrupted", "a signal asked it to stop"
                self.say("stopping: undoing every fault")
            except FeatureError as error:
                self._detail = str(error)

    def _phases(self) -> tuple[str, str]:
        """Play them; why it ended, and more about that."""
        steady = self.script.steady_state
        self._phase("before", "begins")
        self.say(f"before: {steady.title}, {steady.for_s:g} s")
        self._wait(self._now() + steady.for_s)
        self._sample(steady.probes)
        self._phase("before", "ends")
        if not self._is_steady():
            self.say("it is not steady to begin with: nothing is injected")
            return "not_steady", "the steady state did not hold before anything was done"
        self._phase("during", "begins")
        is_whole = self._method(self._now())
        self._phase("during", "ends")
        if not is_whole:
            return "guard", self._tripped
        if self.script.recovery is not None:
            self.say(f"recovery: {self.script.recovery.within_s:g} s")
            self._wait(self._now() + self.script.recovery.within_s)
        self._phase("after", "begins")
        self.say(f"after: {steady.title}, {steady.for_s:g} s")
        self._wait(self._now() + steady.for_s)
        self._sample(self.script.after)
        self._phase("after", "ends")
        return "done", ""

    def _method(self, begin: float) -> bool:
        """Play the steps at their times and end each fault at its own; False where a guard ended it."""
        to_do = sorted(self.script.method, key=lambda step: step.at_s)
        while to_do or self._strikes:
            now = self._now()
            while to_do and begin + to_do[0].at_s <= now:
                self._do(to_do.pop(0))
            for name, (_, _, ends) in list(self._strikes.items()):
                if ends <= now:
                    self._undo(name)
            if self._guard():
                return False
            coming = [begin + to_do[0].at_s] if to_do else []
            coming += [ends for _, _, ends in self._strikes.values()]
            if coming:
                self._wait(min([*coming, now + 0.25]))
        return True

    def _do(self, step: Step) -> None:
        if step.check is not None:
            self._sample((step.check,), name=step.name)
        elif step.do is not None:
            self._act(step.do, step.name)
        else:
            self._strike(step)

    def _strike(self, step: Step) -> None:
        fault = step.inject
        assert fault is not None
        self.say(f"{step.name}: {fault.fault} of {fault.target} for {step.duration_s:g} s")
        told: dict[str, Any] = {"name": step.name, "fault": fault.fault, "target": fault.target}
        self._add(Fault(t=self._now(), state="armed", **told))
        try:
            done = strike(
                fault,
                self.stage,
                seed=self.script.seed,
                for_s=step.duration_s,
                reason=self.script.reason or self.script.title,
            )
            self._strikes[step.name] = step, done, self._now() + step.duration_s
            done.do()
        except FeatureError as error:
            self._strikes.pop(step.name, None)
            self._failed(step, error, told)
            return
        except (OSError, subprocess.SubprocessError) as error:
            self._failed(step, error, told)
            self._undo(step.name)
            return
        self._strikes[step.name] = step, done, self._now() + step.duration_s
        self._add(Fault(t=self._now(), state="applied", detail=done.detail, **told))

    def _failed(self, step: Step, error: Exception, told: dict[str, Any]) -> None:
        self._add(Fault(t=self._now(), state="failed", detail=str(error), **told))
        self.say(f"{step.name}: could not be done: {error}")

    def _undo(self, name: str) -> None:
        step, done, _ = self._strikes.pop(name)
        assert step.inject is not None
        told: dict[str, Any] = {"name": name, "fault": step.inject.fault, "target": step.inject.target}
        try:
            done.undo()
        except Exception as error:  # noqa: BLE001 - whatever it was, the fault may still be on and must be told
            self._add(Fault(t=self._now(), state="undo_failed", detail=str(error), **told))
            self.say(f"{name}: COULD NOT BE UNDONE: {error}")
            return
        if done.applied == 0:
            detail = (
                f"{done.not_applied} reads were due and could not be hit" if done.not_applied else "no read was hit"
            )
            self._add(Fault(t=self._now(), state="not_applied", detail=detail, count=done.not_applied, **told))
        self._add(Fault(t=self._now(), state="cleared", count=done.applied, **told))
        self.say(f"{name}: ended")

    def _undo_all(self) -> None:
        for name in list(self._strikes):
            self._undo(name)
        self._roll_back("clear_all", self.stage.client.chaos.clear_all)
        for step in self.script.rollbacks:
            if isinstance(step, Action):
                self._roll_back(step.action, partial(self._act, step, "rollback"))
            else:
                self._roll_back(step.probe, partial(self._sample, (step,), name="rollback"))

    def _roll_back(self, what: str, do: Callable[[], Any]) -> None:
        """One thing on the way out; its error is told, and keeps nothing else from being put right."""
        try:
            do()
        except Exception as error:  # noqa: BLE001 - whatever it was, the rest must still be done
            self._add(Note(t=self._now(), event="drill.rollback_failed", detail=f"{what}: {told_error(error)}"))
            self.say(f"rollback {what} failed: {error}")

    def _end(self) -> None:
        self._add(End(t=self._now(), reason=self._reason, detail=self._detail))

    def _act(self, action: Action, name: str) -> None:
        self.say(f"{name}: {action.action}")
        if action.action == "clear_all":
            self.stage.client.chaos.clear_all()
        else:
            self.stage.client.refresh(action.timeout_s)
        self._add(Note(t=self._now(), event=f"drill.{action.action}", detail=name))

    def _is_steady(self) -> bool:
        """Whether what was seen so far lets anything be done: every probe of the steady state holds."""
        whole = Window.of(History(tuple(self._taken())))
        window = whole.between(0, self._now(), until=self._now())
        return all(
            compare(probe, probe.measure(window), "before").outcome == "held"
            for probe in self.script.steady_state.probes
        )

    def _guard(self) -> bool:
        """Look at guards and limits over what came in since the last look; whether one ended the drill."""
        now = self._now()
        window = Window.of(History(tuple(self._taken(fresh=True)))).between(self._looked_at, now)
        self._looked_at = now
        for guard in self._guards:
            state = guard.look(window)
            if state is not None:
                self._add(state)
                if state.tripped:
                    self._tripped = self._tripped or state.detail
        self._tripped = self._tripped or self._past_a_limit(now)
        if self._tripped:
            self.say(f"a guard ends it: {self._tripped}")
        return bool(self._tripped)

    def _past_a_limit(self, now: float) -> str:
        limits = self.script.limits
        for name, value, most in (
            ("max_duration_s", now, limits.max_duration_s),
            ("max_faulted_requests", self._faulted, limits.max_faulted_requests),
            ("max_changed_decisions", self._flips, limits.max_changed_decisions),
        ):
            if most is not None and value > most:
                detail = f"limits.{name}: {value:g} is past {most:g}"
                self._add(GuardState(t=now, guard=name, value=float(value), tripped=True, detail=detail))
                return detail
        return ""

    def _sample(self, probes: Iterator[Probe] | tuple[Probe, ...], name: str = "") -> None:
        for probe in probes:
            if probe.live:
                value = self._ask(probe)
                ok = None if value is None else probe.holds(float(value))
                self._add(Sample(t=self._now(), probe=probe.probe, value=value, params=probe.params, name=name, ok=ok))

    def _ask(self, probe: Probe) -> float | bool | None:
        client = self.stage.client
        if isinstance(probe, Ready):
            return client.ready(full=bool(probe.full))
        if isinstance(probe, ActiveFaults):
            return float(len(client.chaos.live()) + len(self._strikes))
        return None

    def _wait(self, until: float) -> None:
        """Let time pass, telling calls each second; a signal ends it."""
        while (left := until - self._now()) > 0:
            if self._now() - self._calls_at >= _CALLS_EVERY_S:
                self._tell_calls()
            if self._stop.wait(min(left, TICK_S)):
                raise Interrupted

    def _begin(self) -> None:
        client = self.stage.client
        self._add(
            Start(
                t=0.0,
                script=redacted(self.script.as_dict()),
                seed=self.script.seed,
                config=client.settings.dump(),
                versions=_versions(),
                began_at=datetime.fromtimestamp(self._clock.wall(), UTC).isoformat(timespec="seconds"),
                deadline_s=client.settings.policy.deadline_s,
                flip_budget=client.settings.impact.flip_budget,
            )
        )

    def _phase(self, phase: str, state: str) -> None:
        self._add(Phase(t=self._now(), phase=phase, state=state))

    def _heard(self, name: str, about: str, fields: Mapping[str, Any]) -> None:
        """What the client tells of itself: attempts are counted, changes of state written down."""
        if name == "source.answered":
            with self._lock:
                self._attempts[about] += 1
        elif name in _TOLD and not fields.get("again"):
            self._add(Note(t=self._now(), event=name, source=about, detail=str(fields.get("reason", ""))))

    def _took(self, record: Record) -> None:
        with self._lock:
            if isinstance(record, Request):
                self._answered += 1
                self._faulted += record.injected > 0
            elif isinstance(record, Pair):
                self._flips += record.flips
            self._recent.append(record)

    def _tell_calls(self) -> None:
        now = self._now()
        with self._lock:
            calls, requests = dict(self._attempts), self._answered - self._since_calls
            self._attempts.clear()
            self._since_calls = self._answered
        self._add(Calls(t=now, over_s=now - self._calls_at, requests=requests, calls=calls))
        self._calls_at = now

    def _taken(self, *, fresh: bool = False) -> list[Record]:
        """What came in since the last look; a fresh look starts the next."""
        with self._lock:
            taken = list(self._recent)
            if fresh:
                self._recent = []
        return taken

    def _add(self, record: Record) -> None:
        self._writer.add(record)
        if isinstance(record, Sample | Calls):
            with self._lock:
                self._recent.append(record)

    def _now(self) -> float:
        return self._clock.monotonic() - self._began


def _versions() -> dict[str, str]:
    import platform

    import numpy as np

    return {"featurechaos": VERSION, "python": platform.python_version(), "numpy": np.__version__}


@contextmanager
def _heeding(stop: threading.Event) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM ask for an end, which comes where it is safe: never between a fault and its undoing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
