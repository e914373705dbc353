"""The sources of a config: which store each one is, what it is given, and what its rows count as."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, ValidationError

from featurechaos.config.mistakes import Mistake, Path, near, shown, told
from featurechaos.config.settings import DEFAULT_TIMEOUT_S, Source
from featurechaos.errors import SpecError
from featurechaos.model import Origin

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from featurechaos.config.interpolate import Resolved
    from featurechaos.config.secrets import Secrets
    from featurechaos.model import View
    from featurechaos.stores import Store

GROUP = "featurechaos.stores"
_BUILT_IN = {"memory": ("featurechaos.testing", "MemoryStore")}
_EXTRAS = ("redis", "s3")
_ROLES = {"primary": Origin.PRIMARY, "replica": Origin.REPLICA, "snapshot": Origin.SNAPSHOT}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_AWS_KEYS = {
    "awsaccesskeyid",
    "awssecretaccesskey",
    "awssessiontoken",
    "accesskey",
    "accesskeyid",
    "secretkey",
    "secretaccesskey",
    "sessiontoken",
}
_AWS_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")
_S3_USER = re.compile(r"s3://[^/]*@")

Stores = Mapping[str, "type[Store]"]


def make(resolved: Resolved, *, order: Sequence[str], stores: Stores | None) -> dict[str, Source]:
    """Every source of a config, checked, in file order; `order` is the global one."""
    written: dict[str, dict[str, Any]] = resolved.tree["sources"]
    if not written:
        raise Mistake(("sources",), "wanted at least one source, got none")
    made = {name: _one(name, values, resolved.secrets, stores) for name, values in written.items()}
    roles = _roles(made, written, order or tuple(written))
    return {
        name: Source(
            name=name,
            type=written[name]["type"],
            role=roles[name],
            store_class=store_class,
            spec=spec,
            timeout_s=_timeout(spec, roles[name]),
        )
        for name, (store_class, spec) in made.items()
    }


def check(sources: Mapping[str, Source], views: Mapping[str, Sequence[View]]) -> None:
    """Let each store say what of its part of the config does not go with the views that are read from it."""
    for name, source in sources.items():
        look = getattr(source.store_class, "check", None)
        if look is None:
            continue
        problem = ""
        try:
            look(source.spec, views[name])
        except SpecError as error:
            problem = str(error)
        if problem:
            raise Mistake(("sources", name), problem)


def find(stores: Stores | None = None) -> dict[str, type[Store]]:
    """Every store class that can be imported here, by type; one whose packages are missing is left out."""
    found: dict[str, type[Store]] = {}
    for name in _known(stores):
        try:
            found[name] = _store_class(name, (), stores)
        except SpecError:
            continue
    return found


def _one(
    name: str, values: Mapping[str, Any], secrets: Secrets, stores: Stores | None
) -> tuple[type[Store], BaseModel]:
    """One source's store class and its part of the config."""
    path = ("sources", name)
    if not _NAME.fullmatch(name):
        raise Mistake(("sources",), f"wanted source names of letters, digits, _ . and -, got {name!r}")
    _refuse_aws_keys(values, path)
    if "type" not in values:
        raise Mistake((*path, "type"), f"is missing, {near('', _known(stores))}")
    kind = values["type"]
    if not isinstance(kind, str):
        raise Mistake((*path, "type"), f"wanted text, got {shown(kind, path, secrets)}")
    store_class = _store_class(kind, (*path, "type"), stores)
    role = values.get("role")
    if role is not None and role not in _allowed(kind, store_class):
        wanted = " or ".join(_allowed(kind, store_class))
        raise Mistake((*path, "role"), f"type {kind} wanted {wanted}, got {shown(role, (*path, 'role'), secrets)}")
    return store_class, _spec(store_class, values, path, secrets)


def _spec(store_class: type[Store], values: Mapping[str, Any], path: Path, secrets: Secrets) -> BaseModel:
    """A source's part of the config as its store's own model."""
    model = store_class.spec
    given = {key: value for key, value in values.items() if key != "role" or (value and key in model.model_fields)}
    if "type" not in model.model_fields:
        del given["type"]
    mistake: Mistake
    try:
        return _checked(model.model_validate(given), given, path, secrets)
    except Mistake:
        raise
    except ValidationError as error:
        mistake = told(error, model, given, path, secrets, also=("role",))
    except SpecError as error:
        mistake = Mistake(path, secrets.scrub(str(error)))
    # Out here, so that the model's own error, which repeats its input, is not chained.
    raise mistake


def _checked(spec: BaseModel, given: Mapping[str, Any], path: Path, secrets: Secrets) -> BaseModel:
    """What every store's model must keep, however it is written."""
    for key, value in given.items():
        number = getattr(spec, key, None)
        if isinstance(value, bool) and isinstance(number, (int, float)) and not isinstance(number, bool):
            raise Mistake((*path, key), f"wanted a number, got {shown(value, (*path, key), secrets)}")
    timeout = getattr(spec, "timeout_s", None)
    if timeout is not None and not 0 < timeout < math.inf:
        raise Mistake((*path, "timeout_s"), f"wanted a number more than 0, got {timeout!r}")
    return spec


def _allowed(kind: str, store_class: type[Store]) -> tuple[str, ...]:
    if kind == "memory":
        return tuple(_ROLES)
    if _is_snapshot(store_class):
        return ("snapshot",)
    return tuple(_ROLES) if hasattr(store_class, "publish") else ("primary", "replica")


def _is_snapshot(store_class: type[Store]) -> bool:
    """Whether a store holds dated images and nothing else: its class or its model's `role` says so."""
    role = store_class.spec.model_fields.get("role")
    return "snapshot" in (getattr(store_class, "default_role", None), role.default if role else None)


def _roles(
    made: Mapping[str, tuple[type[Store], BaseModel]],
    written: Mapping[str, Mapping[str, Any]],
    order: Iterable[str],
) -> dict[str, Origin]:
    """Whose rows count as what: a role that is written holds.

    Where none is written as primary, the first online source of the order without a role is; the rest
    are replicas.
    """
    roles = {name: _ROLES[values["role"]] for name, values in written.items() if values.get("role")}
    for name, (store_class, _) in made.items():
        if _is_snapshot(store_class):
            roles.setdefault(name, Origin.SNAPSHOT)
    if Origin.PRIMARY not in roles.values():
        first = next((name for name in order if name in made and name not in roles), None)
        roles |= {first: Origin.PRIMARY} if first else {}
    return {name: roles.get(name, Origin.REPLICA) for name in made}


def _timeout(spec: BaseModel, role: Origin) -> float | None:
    timeout = cast("float | None", getattr(spec, "timeout_s", None))
    if role is Origin.SNAPSHOT:
        return timeout
    return DEFAULT_TIMEOUT_S if timeout is None else timeout


def _refuse_aws_keys(value: object, path: Path) -> None:
    """Keys in a file end up in a repository; AWS's own chain finds them elsewhere."""
    told_where = "AWS keys are not taken from a config: AWS finds them in the environment, a profile or a role"
    if isinstance(value, Mapping):
        for key, each in value.items():
            if re.sub(r"[^a-z0-9]", "", key.lower()) in _AWS_KEYS:
                raise Mistake((*path, key), told_where)
            _refuse_aws_keys(each, (*path, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            _refuse_aws_keys(each, (*path, index))
    elif isinstance(value, str) and (_AWS_KEY_ID.search(value) or _S3_USER.match(value)):
        raise Mistake(path, told_where)


def _store_class(kind: str, path: Path, stores: Stores | None) -> type[Store]:
    """The class that serves a type of source."""
    if stores and kind in stores:
        return stores[kind]
    if kind in _BUILT_IN:
        module, name = _BUILT_IN[kind]
        return cast("type[Store]", getattr(import_module(module), name))
    points = {point.name: point for point in _entry_points()}
    if kind not in points:
        raise Mistake(path, f"there is no type of source called {kind!r}, {near(kind, _known(stores))}")
    return _loaded(points[kind], path)


def _loaded(point: EntryPoint, path: Path) -> type[Store]:
    missing = ""
    try:
        return cast("type[Store]", point.load())
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
    except ImportError as error:
        raise Mistake(path, f"type {point.name} cannot be imported: {error}") from error
    needs = f"featurechaos[{point.name}]" if point.name in _EXTRAS else missing
    raise Mistake(path, f"type {point.name} needs: pip install '{needs}' ({missing} is not installed)")


def _known(stores: Stores | None) -> list[str]:
    return sorted({*(stores or ()), *_BUILT_IN, *(point.name for point in _entry_points())})


def _entry_points() -> list[EntryPoint]:
    from importlib.metadata import entry_points

    return list(entry_points(group=GROUP))
