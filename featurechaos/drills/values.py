"""The kinds of value a drill file may hold, each refused in plain words."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from featurechaos.model import Cause, Origin


class Spec(BaseModel):
    """A part of a drill file: frozen, and an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What a person would have written: keys that say nothing new are left out."""
        body: dict[str, Any] = handler(self)
        return {key: value for key, value in body.items() if not self._says_nothing(key)}

    def _says_nothing(self, key: str) -> bool:
        field = type(self).model_fields[key]
        return not field.is_required() and getattr(self, key) == field.get_default(call_default_factory=True)


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wanted("a number", value)
    if not math.isfinite(value):
        raise _wanted("a finite number", value)
    return value


def _number_or_flag(value: object) -> object:
    return value if isinstance(value, bool) else _number(value)


def _whole(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wanted("a whole number", value)
    return value


def _text(value: object) -> object:
    if not isinstance(value, str) or not value.strip():
        raise _wanted("a text", value)
    return value


def _yes_or_no(value: object) -> object:
    if not isinstance(value, bool):
        raise _wanted("true or false", value)
    return value


def _bounded(test: Callable[[float], bool], wanted: str) -> AfterValidator:
    def check(value: float) -> float:
        if not test(value):
            msg = f"{value:g} is not {wanted}"
            raise ValueError(msg)
        return value

    return AfterValidator(check)


def _origins(value: object) -> object:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not names:
        raise _wanted("an origin or a list of them", value)
    for name in names:
        if name not in Origin.__members__:
            raise _unknown(name, Origin)
    return tuple(names)


def _cause(value: object) -> object:
    if value not in Cause.__members__:
        raise _unknown(value, Cause)
    return value


def _wanted(what: str, value: object) -> ValueError:
    plain = {None: "null", True: "true", False: "false"}
    # `1 == True`, so a look-up alone would call the number one "true".
    shown = plain[value] if value is None or isinstance(value, bool) else repr(value)
    return ValueError(f"wanted {what}, got {shown}")


def _unknown(name: object, family: type[IntEnum]) -> ValueError:
    return ValueError(f"{name!r} is not one of {', '.join(family.__members__)}")


Number = Annotated[float, BeforeValidator(_number)]
Share = Annotated[Number, _bounded(lambda value: 0 <= value <= 1, "within 0..1")]
Seconds = Annotated[Number, _bounded(lambda value: 0 <= value <= 1e9, "a time of zero seconds or more")]
Duration = Annotated[Number, _bounded(lambda value: 0 < value <= 1e9, "a time of more than zero seconds")]
Rate = Annotated[Number, _bounded(lambda value: 0 < value <= 1e6, "within 0..1000000, zero left out")]
Ratio = Annotated[Number, _bounded(lambda value: value >= 0, "zero or more")]
Count = Annotated[int, BeforeValidator(_whole), _bounded(lambda value: value >= 0, "zero or more")]
Seed = Annotated[int, BeforeValidator(_whole)]
Text = Annotated[str, BeforeValidator(_text)]
Flag = Annotated[bool, BeforeValidator(_yes_or_no)]
NumberOrFlag = Annotated[float | bool, BeforeValidator(_number_or_flag)]
CauseName = Annotated[str, BeforeValidator(_cause)]
Origins = Annotated[tuple[str, ...], BeforeValidator(_origins)]
