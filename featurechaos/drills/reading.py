"""From a YAML file to a `Script`, with the path of every mistake: `drill.yaml: method[0].inject.share: ...`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from pydantic import ValidationError

from featurechaos.config.mistakes import Mistake, Path, near, told
from featurechaos.config.read import parse, read
from featurechaos.config.secrets import Secrets
from featurechaos.drills.built import must_be_built
from featurechaos.drills.faults import FAULTS, FaultSpec
from featurechaos.drills.probes import PROBES, Probe
from featurechaos.drills.script import (
    STEADY,
    Action,
    Coverage,
    Expect,
    Groups,
    Limits,
    Load,
    Model,
    Recovery,
    Reference,
    ReportSpec,
    Script,
    SteadyState,
    Step,
    Target,
)
from featurechaos.drills.values import Spec
from featurechaos.errors import SpecError

S = TypeVar("S", bound=Spec)

_PIECE = re.compile(r"\$\$|\$\{([^{}]*)\}")
_MOST_VALUES = 50_000
_MOST_DEPTH = 20
_PLAIN: dict[str, type[Spec]] = {
    "target": Target,
    "model": Model,
    "reference": Reference,
    "coverage": Coverage,
    "limits": Limits,
    "report": ReportSpec,
    "groups": Groups,
}


def load_script(
    path: str | os.PathLike[str], *, env: Mapping[str, str] | None = None, settings: Mapping[str, str] | None = None
) -> Script:
    """Read a drill file.

    Args:
        path: a YAML file.
        env: what `${NAME}` and `configuration: {x: {env: NAME}}` look in; the caller says so.
        settings: values that replace those of `configuration`, as `--set configuration.x=y` gives them.

    Raises:
        SpecError: one sentence that begins with the file and the path of the mistake.
    """
    name, tree = read(path)
    return _named(name, tree, env or {}, settings or {})


def parse_script(
    text: str,
    *,
    name: str = "drill.yaml",
    env: Mapping[str, str] | None = None,
    settings: Mapping[str, str] | None = None,
) -> Script:
    """Read a drill from YAML text; otherwise as `load_script`."""
    return _named(name, parse(text, name=name), env or {}, settings or {})


def script_of(tree: Mapping[str, Any], *, name: str = "script") -> Script:
    """A script from what `Script.as_dict` gave, as a journal keeps it."""
    return _named(name, tree, {}, {})


def _named(name: str, tree: Mapping[str, Any], env: Mapping[str, str], settings: Mapping[str, str]) -> Script:
    try:
        script = _script(_Filling(tree, env, settings).filled())
        must_be_built(script)
    except Mistake as mistake:
        msg = f"{name}: {mistake}"
        raise SpecError(msg) from None
    return script


class _Filling:
    """Puts values where `${name}` stands: from `configuration`, else from the environment.

    `${file:...}` is left as it is: a secret is read where it is used, never into a script.
    """

    def __init__(self, tree: Mapping[str, Any], env: Mapping[str, str], settings: Mapping[str, str]) -> None:
        self.tree, self.env, self.left = tree, env, _MOST_VALUES
        self.known = self._configured(tree.get("configuration") or {}, settings)

    def filled(self) -> dict[str, Any]:
        rest = {key: value for key, value in self.tree.items() if key != "configuration"}
        body: dict[str, Any] = self._visit(rest, ())
        return body | ({"configuration": self.known} if self.known else {})

    def _configured(self, body: object, settings: Mapping[str, str]) -> dict[str, Any]:
        at: Path = ("configuration",)
        found = {}
        for key, value in _mapping(body, at).items():
            found[str(key)] = self._one(value, (*at, str(key)))
        for key, text in settings.items():
            if key not in found:
                raise Mistake((*at, key), f"is not there to be set, {near(key, found)}")
            found[key] = _typed(text)
        return found

    def _one(self, value: object, at: Path) -> Any:
        if not isinstance(value, Mapping):
            if isinstance(value, list):
                raise Mistake(at, "wanted a value or {env, default}, got a list")
            return value.replace("$$", "$") if isinstance(value, str) else value
        if extra := set(value) - {"env", "default"}:
            raise Mistake((*at, str(min(extra, key=str))), "is not a known key, known here: env, default")
        if not isinstance(value.get("env"), str):
            raise Mistake((*at, "env"), "wanted the name of an environment variable")
        if value["env"] in self.env:
            return _typed(self.env[value["env"]])
        if "default" not in value:
            raise Mistake(at, f"the environment variable {value['env']} is not set and there is no default")
        return value["default"]

    def _visit(self, value: Any, at: Path) -> Any:
        self.left -= 1
        if self.left < 0 or len(at) > _MOST_DEPTH:
            raise Mistake(at[:3], f"holds more than {_MOST_VALUES} values, or more than {_MOST_DEPTH} levels")
        if isinstance(value, Mapping):
            return {str(key): self._visit(each, (*at, str(key))) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._visit(each, (*at, index)) for index, each in enumerate(value)]
        return self._fill(value, at) if isinstance(value, str) and "$" in value else value

    def _fill(self, text: str, at: Path) -> Any:
        whole = _PIECE.fullmatch(text)
        if whole and whole[1] is not None:
            return self._found(whole[1], at)
        return _PIECE.sub(lambda piece: "$" if piece[1] is None else str(self._found(piece[1], at)), text)

    def _found(self, inner: str, at: Path) -> Any:
        name, has_default, default = inner.partition(":-")
        if inner.startswith("file:"):
            return f"${{{inner}}}"
        if name in self.known:
            return self.known[name]
        if name in self.env:
            return _typed(self.env[name])
        if has_default:
            return _typed(default)
        raise Mistake(at, f"${{{name}}} is neither in configuration nor in the environment, {near(name, self.known)}")


def _typed(text: str) -> Any:
    """A value from outside the file, read as YAML reads a plain one: 30 is a number, true a truth value."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, (int, float, bool)) else text


def _script(tree: Mapping[str, Any]) -> Script:
    body = dict(tree)
    for key, model in _PLAIN.items():
        if body.get(key) is not None:
            body[key] = _part(model, body[key], (key,))
    builders: dict[str, Callable[[Any, Path], Any]] = {
        "load": _load,
        "steady_state": _steady_state,
        "method": _list_of(partial(_step, groups=body.get("groups"))),
        "guards": _list_of(_probe),
        "expect": _expect,
        "recovery": _recovery,
        "rollbacks": _list_of(_rollback),
    }
    for key, build in builders.items():
        if body.get(key) is not None:
            body[key] = build(body[key], (key,))
    script = _part(Script, body, ())
    _must_agree(script)
    return script


def _load(body: object, at: Path) -> object:
    return body if body == "none" else _part(Load, body, at)


def _steady_state(body: object, at: Path) -> SteadyState:
    return _part(SteadyState, _with(body, at, probes=_list_of(_probe)), at)


def _expect(body: object, at: Path) -> Expect:
    def after(value: object, place: Path) -> object:
        if isinstance(value, str):
            if value != STEADY:
                raise Mistake(place, f"wanted {STEADY} or a list of probes, got {value!r}")
            return value
        return _list_of(_probe)(value, place)

    return _part(Expect, _with(body, at, during=_list_of(_probe), after=after), at)


def _recovery(body: object, at: Path) -> Recovery:
    own, check = _split(_mapping(body, at), ("within_s", "no_flap"))
    return _part(Recovery, own | {"check": _probe(check, at)}, at)


def _step(body: object, at: Path, *, groups: Groups | None = None) -> Step:
    tree = _mapping(body, at)
    kinds = [key for key in ("inject", "action", "probe") if key in tree]
    if len(kinds) != 1:
        raise Mistake(at, f"wanted one of inject, action and probe, got {' and '.join(kinds) or 'none'}")
    if kinds == ["inject"]:
        return _part(Step, _with(tree, at, inject=partial(_fault, groups=groups)), at)
    own, rest = _split(tree, ("at_s", "name", "for_s", "ramp"))
    if kinds == ["action"]:
        return _part(Step, own | {"do": _part(Action, rest, at)}, at)
    return _part(Step, own | {"check": _probe(rest, at)}, at)


def _rollback(body: object, at: Path) -> Action | Probe:
    tree = _mapping(body, at)
    return _part(Action, tree, at) if "action" in tree else _probe(tree, at)


def _probe(body: object, at: Path) -> Probe:
    return _of_family(PROBES, "probe", body, at)


def _fault(body: object, at: Path, *, groups: Groups | None) -> FaultSpec:
    """A fault; one that must be given a share has it from the drill's groups, if those say whom to hit."""
    if groups and isinstance(body, Mapping) and (model := FAULTS.get(str(body.get("fault")))):
        field = model.model_fields.get("share")
        body = {"share": groups.experiment, **body} if field and field.is_required() else body
    return _of_family(FAULTS, "fault", body, at)


def _of_family(family: Mapping[str, type[S]], key: str, body: object, at: Path) -> S:
    tree = _mapping(body, at)
    if key not in tree:
        raise Mistake((*at, key), "is missing")
    if not isinstance(tree[key], str) or tree[key] not in family:
        raise Mistake((*at, key), f"{tree[key]!r} is not a {key}, {near(str(tree[key]), family)}")
    return _part(family[tree[key]], tree, at)


def _part(model: type[S], body: object, at: Path) -> S:
    tree = _mapping(body, at)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        mistake = told(error, model, tree, at, Secrets())
    raise mistake


def _with(body: object, at: Path, **builders: Callable[[Any, Path], Any]) -> dict[str, Any]:
    """A mapping with some of its keys built, where they are given."""
    tree = dict(_mapping(body, at))
    for key, build in builders.items():
        if tree.get(key) is not None:
            tree[key] = build(tree[key], (*at, key))
    return tree


def _list_of(build: Callable[[Any, Path], Any]) -> Callable[[object, Path], list[Any]]:
    def built(body: object, at: Path) -> list[Any]:
        if not isinstance(body, (list, tuple)):
            raise Mistake(at, f"wanted a list, got {body!r}" if not isinstance(body, Mapping) else "wanted a list")
        return [build(each, (*at, index)) for index, each in enumerate(body)]

    return built


def _mapping(body: object, at: Path) -> Mapping[str, Any]:
    if not isinstance(body, Mapping):
        raise Mistake(at, f"wanted a mapping, got {'a list' if isinstance(body, (list, tuple)) else repr(body)}")
    return body


def _split(tree: Mapping[str, Any], names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    own = {key: value for key, value in tree.items() if key in names}
    return own, {key: value for key, value in tree.items() if key not in names}


def _must_agree(script: Script) -> None:
    """What no part can see alone."""
    if not script.faults:
        raise Mistake(("method",), "wanted at least one step that injects a fault")
    names = [step.name for step in script.method]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise Mistake(("method", index, "name"), f"{name!r} is already the name of method[{names.index(name)}]")
    for index, step in enumerate(script.method):
        together = sum(
            other.inject.load_share for other in script.faults if other.inject and other.at_s <= step.at_s < other.end_s
        )
        if step.inject and together > script.limits.max_share + 1e-9:
            raise Mistake(
                ("method", index, "inject", "share"),
                f"the faults on at {step.at_s:g} s take {together:g} of the traffic with their control groups, "
                f"more than limits.max_share {script.limits.max_share:g}",
            )
    if not script.steady_state.probes:
        raise Mistake(("steady_state", "probes"), "wanted at least one probe")
