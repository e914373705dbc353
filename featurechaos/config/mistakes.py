"""Mistakes in a config, told in one sentence: where it is, what was wanted, what came."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from pydantic import BaseModel

from featurechaos.config.secrets import Secrets
from featurechaos.errors import SpecError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

Path = tuple[str | int, ...]

_LONGEST_SHOWN = 60
_BARE = "YAML reads a bare yes, no, on, off, true or false as a truth value: quote it"
_KINDS = {
    "a finite number": ("finite_number",),
    "a number": ("float", "decimal"),
    "a whole number": ("int",),
    "true or false": ("bool",),
    "text": ("str",),
    "a mapping": ("model", "dict", "mapping", "dataclass"),
    "a list": ("list", "tuple", "set", "frozen_set", "iterable"),
}
"""What is wanted where pydantic's kind of complaint begins like this."""


class Mistake(SpecError):
    """One thing wrong at one place; `load` puts the file's name before it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{spot(path)}: {reason}" if path else reason)
        self.path, self.reason = path, reason


def spot(path: Path) -> str:
    """Where something is, as a reader would say it: `views[0].features.seats.dtype`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else str(part)
    return text


def near(word: str, known: Iterable[str]) -> str:
    """What to say after refusing a word: the closest known one, else all of them."""
    import difflib

    choices = list(known)
    close = difflib.get_close_matches(word.replace("-", "_"), choices, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known here: {', '.join(choices)}" if choices else "none are known here"


def shown(value: object, path: Path, secrets: Secrets) -> str:
    """A value as a message may show it: short, and never a secret."""
    if secrets.hides(path):
        return "a value that is not shown"
    if template := secrets.template(path):
        return f"the value of {template}"
    return plain(secrets.cut(value) if isinstance(value, str) else value)


def plain(value: object) -> str:
    """A value that is no secret, in a few words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    for kind, name in ((Mapping, "a mapping"), ((list, tuple), "a list")):
        if isinstance(value, kind):
            return name
    text = f"the date {value}" if isinstance(value, date) else repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def told(
    error: ValidationError,
    model: type[BaseModel],
    tree: object,
    at: Path,
    secrets: Secrets,
    *,
    also: tuple[str, ...] = (),
) -> Mistake:
    """The first of a model's complaints as a Mistake; unknown keys go first, since they explain missing ones.

    `tree` is what was validated, `at` where it stands in the file, `also` the keys it may have that
    someone else reads. The error itself must not travel on: its text repeats what it was given.
    """
    problems = error.errors(include_url=False)
    problem = min(problems, key=lambda each: each["type"] != "extra_forbidden")
    loc = _steps(problem["loc"], tree)
    path = (*at, *loc)
    if problem["type"] == "extra_forbidden":
        known = keys_of(_model_at(model, loc[:-1]))
        return unknown(path, known if loc[:-1] else [*known, *(key for key in also if key not in known)])
    if problem["type"] == "missing":
        return Mistake(path, "is missing")
    return Mistake(path, _reason(problem, model, loc, path, secrets))


def unknown(path: Path, known: Iterable[str]) -> Mistake:
    """A key nobody knows."""
    return Mistake(path, f"is not a known key, {near(str(path[-1]), known)}")


def keys_of(model: type[BaseModel] | None) -> list[str]:
    """The keys a model takes, as they are written in a file."""
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _reason(problem: ErrorDetails, model: type[BaseModel], loc: Path, path: Path, secrets: Secrets) -> str:
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind in ("value_error", "assertion_error"):
        return secrets.scrub(str(context["error"]))
    wanted = secrets.scrub(problem["msg"])
    if kind == "literal_error":
        wanted = str(context["expected"]).replace("'", "")
    elif kind.startswith(("greater_than", "less_than")):
        wanted = _range(_field_at(model, loc), context)
    else:
        wanted = next((name for name, starts in _KINDS.items() if kind.startswith(starts)), wanted)
    if context.get("class_name") == "FeatureSpec":
        wanted += " such as {dtype: int64}"
    return f"wanted {wanted}, got {shown(value, path, secrets)}{_hint(value) if wanted == 'text' else ''}"


def _hint(value: object) -> str:
    """Why YAML made something else of what its writer meant as text."""
    if isinstance(value, bool):
        return f" ({_BARE})"
    return " (quote it)" if isinstance(value, (int, float, date)) else ""


def _range(field: FieldInfo | None, context: Mapping[str, Any]) -> str:
    """The numbers a field takes: `within 0..1`, `more than 0 and at most 1`."""
    bounds = dict(context)
    for rule in (*field.metadata, *_rules(field.annotation)) if field else ():
        bounds |= {name: limit for name in ("gt", "ge", "lt", "le") if (limit := getattr(rule, name, None)) is not None}
    if "ge" in bounds and "le" in bounds:
        return f"a number within {bounds['ge']:g}..{bounds['le']:g}"
    words = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
    return "a number " + " and ".join(f"{words[name]} {bounds[name]:g}" for name in words if name in bounds)


def _rules(annotation: Any) -> list[Any]:
    """The rules of `Annotated` parts inside an annotation."""
    inner = [rule for each in get_args(annotation) for rule in _rules(each)]
    return [
        rule for part in getattr(annotation, "__metadata__", ()) for rule in getattr(part, "metadata", [part])
    ] + inner


def _steps(loc: Sequence[str | int], tree: object) -> Path:
    """A complaint's place without the steps pydantic adds for itself (branches of unions, `[key]`)."""
    steps: list[str | int] = []
    for number, part in enumerate(loc):
        has_key = isinstance(tree, Mapping) and part in tree
        if has_key or (isinstance(tree, (list, tuple)) and isinstance(part, int) and part < len(tree)):
            tree = tree[part]  # type: ignore[index]
        elif number < len(loc) - 1 or not isinstance(tree, Mapping) or part == "[key]":
            continue
        steps.append(part)
    return tuple(steps)


def _field_at(model: type[BaseModel], loc: Path) -> FieldInfo | None:
    owner = _model_at(model, loc[:-1])
    fields = {field.alias or name: field for name, field in owner.model_fields.items()} if owner else {}
    return fields.get(str(loc[-1])) if loc else None


def _model_at(model: type[BaseModel], loc: Path) -> type[BaseModel] | None:
    """The model that holds the keys at a place, through optional fields, lists and mappings."""
    kind: Any = model
    for part in loc:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            fields = {field.alias or name: field for name, field in kind.model_fields.items()}
            kind = _bare(fields[str(part)].annotation) if str(part) in fields else None
        else:
            inner = [each for each in get_args(kind) if each is not Ellipsis]
            kind = _bare(inner[-1]) if inner else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _bare(annotation: Any) -> Any:
    """An annotation without `Annotated` and `| None`."""
    while True:
        if hasattr(annotation, "__metadata__"):
            annotation = annotation.__origin__
        elif get_origin(annotation) in (Union, types.UnionType):
            some = [each for each in get_args(annotation) if each is not type(None)]
            if len(some) != 1:
                return None
            annotation = some[0]
        else:
            return annotation
