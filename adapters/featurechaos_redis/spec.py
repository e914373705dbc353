"""A redis source as it is written in a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_serializer, field_validator

from featurechaos_redis.times import Unit

_NOT_BUILT = {"layout": ("packed", ("feast",))}
_SET_ELSEWHERE = {
    "host": "url",
    "port": "url",
    "path": "url",
    "db": "url",
    "socket_timeout": "timeout_s",
    "socket_connect_timeout": "connect_timeout_s",
    "max_connections": "max_connections",
    "retry": "policy.retry",
    "retry_on_timeout": "policy.retry",
    "retry_on_error": "policy.retry",
    "parser_class": "nothing: replies are parsed here",
    "encoding": "nothing: rows are bytes",
    "encoding_errors": "nothing: rows are bytes",
    "decode_responses": "nothing: rows are bytes",
    "health_check_interval": "nothing: a dead connection is replaced when met",
    "redis_connect_func": "nothing: the handshake is bounded here",
}
"""Driver options that would undo a promise of this adapter -> what sets them instead."""

_SENTINEL_OPTIONS = ("service_name", "sentinel_kwargs")
"""Options of `mode: sentinel`, by redis-py's names, that are not its connections'."""

_PORT, _SENTINEL_PORT = 6379, 26379
_FOREIGN_ONLY = ("key", "event_time_field", "time_unit", "views")
"""What only says how rows lie that others write."""
_PACKED_ONLY = ("expire_s",)

_SECRET_WORDS = ("password", "credential", "secret", "token")


class ViewSpec(BaseModel):
    """How the rows of one view lie, where they lie differently from those of the others."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    key: str | None = Field(None, min_length=1, max_length=1024)
    """As the source's `key`."""
    fields: dict[str, str] = {}
    """Feature -> the name it is stored under, where that is another."""
    event_time_field: str | None = None
    """As the source's; null here: rows of this view have no event time."""
    time_unit: Unit | None = None
    """As the source's."""


class RedisSpec(BaseModel):
    """A redis or valkey server, or several that make one source; `options` go to redis-py's connections as they are."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    type: Literal["redis"] = "redis"
    mode: Literal["standalone", "cluster", "sentinel"] = "standalone"
    url: SecretStr
    layout: Literal["packed", "hash", "json"] = "packed"
    key: str | None = Field(None, min_length=1, max_length=1024)
    event_time_field: str | None = "event_timestamp"
    time_unit: Unit = "auto"
    views: dict[str, ViewSpec] = {}
    role: Literal["primary", "replica"] | None = None
    timeout_s: float = Field(0.015, gt=0, allow_inf_nan=False)
    connect_timeout_s: float = Field(1.0, gt=0, allow_inf_nan=False)
    max_connections: int = Field(64, ge=1)
    expire_s: float | None = Field(None, ge=0.001, allow_inf_nan=False)
    options: dict[str, Any] = Field(default_factory=dict, repr=False, validate_default=True)

    @field_validator("layout", mode="before")
    @classmethod
    def _refuse_unbuilt(cls, value: Any, info: Any) -> Any:
        built, planned = _NOT_BUILT[info.field_name]
        if value in planned:
            msg = f"{info.field_name} {value!r} is not built yet; use {built!r}"
            raise ValueError(msg)
        return value

    @field_validator(*_FOREIGN_ONLY, *_PACKED_ONLY)
    @classmethod
    def _refuse_unused(cls, value: Any, info: Any) -> Any:
        layout, name = info.data.get("layout"), info.field_name
        if value == cls.model_fields[name].default or layout is None:
            return value
        if layout == "packed" and name in _FOREIGN_ONLY:
            msg = "is for layout hash or json: packed rows are written, and found again, by us"
            raise ValueError(msg)
        if layout != "packed" and name in _PACKED_ONLY:
            msg = f"is for layout packed: rows of layout {layout} are only read"
            raise ValueError(msg)
        return value

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr, info: Any) -> SecretStr:
        _check_addresses(Address.parse_all(url.get_secret_value()), info.data.get("mode", "standalone"))
        return url

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: dict[str, Any], info: Any) -> dict[str, Any]:
        for name in options:
            if name in _SET_ELSEWHERE:
                msg = f"{name!r} may not be given here; it is set by {_SET_ELSEWHERE[name]}"
                raise ValueError(msg)
        _check_sentinels(options, info.data.get("mode", "standalone"))
        if options.get("protocol", 2) not in (2, 3):
            msg = f"'protocol' wants 2 or 3, got {options['protocol']!r}"
            raise ValueError(msg)
        return options

    @field_serializer("url")
    def _dump_url(self, _: SecretStr) -> str:
        return self.redacted

    @field_serializer("options")
    def _dump_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return _without_secrets(options)

    @property
    def address(self) -> Address:
        """Where the server is; of several, the first."""
        return self.addresses[0]

    @property
    def addresses(self) -> list[Address]:
        """Every address of the url."""
        port = _SENTINEL_PORT if self.mode == "sentinel" else _PORT
        return Address.parse_all(self.url.get_secret_value(), port=port)

    @property
    def connection_options(self) -> dict[str, Any]:
        """The options that redis-py's connections take."""
        return {name: value for name, value in self.options.items() if name not in _SENTINEL_OPTIONS}

    def sentinels(self) -> list[RedisSpec]:
        """Each sentinel as a source of one server; the time to connect is shared among them.

        They are spoken to as the servers are, TLS or not, unless `sentinel_kwargs` has another `ssl`.
        """
        given = dict(self.options.get("sentinel_kwargs") or {})
        scheme = "rediss" if given.pop("ssl", self.address.scheme == "rediss") else "redis"
        tls = {name: value for name, value in self.options.items() if name.startswith("ssl_") and scheme == "rediss"}
        who = {"username": given.pop("username", None), "password": given.pop("password", None)}
        update = {
            "mode": "standalone",
            "options": {**tls, **given},
            "connect_timeout_s": self.connect_timeout_s / len(self.addresses),
        }
        return [
            self.model_copy(update={**update, "url": SecretStr(replace(each, scheme=scheme, db=0, **who).url)})
            for each in self.addresses
        ]

    def at(self, host: str, port: int) -> RedisSpec:
        """The same source with one server, at this address."""
        one = replace(self.address, host=host, port=port)
        return self.model_copy(update={"mode": "standalone", "url": SecretStr(one.url)})

    @property
    def redacted(self) -> str:
        """The url with `***` for the password: fit for messages."""
        first, *others = self.addresses
        return ",".join([first.redacted, *(other.where for other in others)])

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every text that may stand in no message."""
        options = {**self.options, **(self.options.get("sentinel_kwargs") or {})}
        found = [self.address.password, *(options[name] for name in options if _is_secret(name))]
        return tuple(text for text in found if isinstance(text, str) and text)


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """Where a server is and who we are to it, taken from a url."""

    scheme: str
    host: str
    port: int
    path: str
    db: int
    username: str | None
    password: str | None

    @classmethod
    def parse_all(cls, url: str, *, port: int = _PORT) -> list[Address]:
        """Read `redis://user:password@host:port,host:port/0`; errors as `parse`."""
        scheme, mark, rest = url.partition("://")
        network, slash, path = rest.partition("/")
        user, at, hosts = network.rpartition("@")
        if not mark or "," not in hosts:
            return [cls.parse(url, port=port)]
        return [cls.parse(f"{scheme}://{user}{at}{host}{slash}{path}", port=port) for host in hosts.split(",")]

    @classmethod
    def parse(cls, url: str, *, port: int = _PORT) -> Address:
        """Read `redis://`, `rediss://` or `unix://`; a ValueError repeats nothing that may be a password."""
        parts, written = _split(url)
        if parts.scheme not in ("redis", "rediss", "unix"):
            came = f"{parts.scheme}://" if parts.scheme else "none of them"
            msg = f"a url wants to begin with redis://, rediss:// or unix://, got {came}"
            raise ValueError(msg)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        db = query.pop("db", None)
        if query:
            msg = f"a url takes no {', '.join(sorted(query))}: settings of the driver go under options"
            raise ValueError(msg)
        if parts.scheme == "unix":
            host, path = "", unquote(parts.path)
            if not path:
                msg = "a unix:// url wants the path of a socket, as in unix:///run/valkey.sock"
                raise ValueError(msg)
        else:
            host, path = unquote(parts.hostname or "localhost"), ""
            db = unquote(parts.path).strip("/") or db
        return cls(
            scheme=parts.scheme,
            host=host,
            port=written or port,
            path=path,
            db=_number(db or "0"),
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
        )

    @property
    def redacted(self) -> str:
        who = self.username or ""
        who += ":***" if self.password else ""
        at = f"{who}@" if who else ""
        if self.scheme == "unix":
            return f"unix://{at}{self.path}" + (f"?db={self.db}" if self.db else "")
        return f"{self.scheme}://{at}{self.where}/{self.db}"

    @property
    def where(self) -> str:
        """Host and port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole of it, password and all; of a server on the network."""
        who = quote(self.username or "", safe="")
        who += f":{quote(self.password, safe='')}" if self.password else ""
        return f"{self.scheme}://{who}{'@' if who else ''}{self.where}/{self.db}"

    @property
    def driver_options(self) -> Mapping[str, Any]:
        """The same as redis-py names it."""
        where = {"path": self.path} if self.scheme == "unix" else {"host": self.host, "port": self.port}
        return {**where, "db": self.db, "username": self.username, "password": self.password}

    def __repr__(self) -> str:
        return f"Address({self.redacted})"


def _check_addresses(addresses: list[Address], mode: str) -> None:
    """A ValueError for what a mode can't be reached by."""
    first = addresses[0]
    if mode == "standalone":
        if len(addresses) > 1:
            msg = f"mode standalone wants one host in its url, got {len(addresses)}: cluster and sentinel take several"
            raise ValueError(msg)
        return
    if first.scheme == "unix":
        msg = f"mode {mode} wants hosts in its url, as in redis://host:6379,host:6380, got a unix socket"
        raise ValueError(msg)
    if mode == "cluster" and first.db:
        msg = f"a cluster has database 0 only, got {first.db}"
        raise ValueError(msg)


def _split(url: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # The parser's own message quotes what it stumbled over, which may be a password's tail.
        msg = (
            "the url can't be read: its host or port is malformed "
            "(write @ : / # ? of a password as %40 %3A %2F %23 %3F)"
        )
        raise ValueError(msg) from None
    return parts, port


def _number(db: str) -> int:
    if not (db.isascii() and db.isdigit()):
        msg = f"a url wants a database number after the host, got {len(db)} characters that are not one"
        raise ValueError(msg)
    return int(db)


def _check_sentinels(options: dict[str, Any], mode: str) -> None:
    """A ValueError for options that do not say which primary the sentinels are asked for."""
    if mode != "sentinel":
        for given in options.keys() & set(_SENTINEL_OPTIONS):
            msg = f"{given!r} is for mode sentinel, got mode {mode}"
            raise ValueError(msg)
        return
    name, kwargs = options.get("service_name"), options.get("sentinel_kwargs") or {}
    if not (isinstance(name, str) and name):
        msg = "mode sentinel wants 'service_name', the name the sentinels have for the primary, such as mymaster"
        raise ValueError(msg)
    if not isinstance(kwargs, dict):
        msg = f"'sentinel_kwargs' wants a mapping, got {type(kwargs).__name__}"
        raise ValueError(msg)  # noqa: TRY004 - what pydantic makes a mistake of
    for each in kwargs:
        if each not in ("username", "password", "ssl") and not str(each).startswith("ssl_"):
            msg = f"'sentinel_kwargs' wants username, password, ssl or ssl_..., got {each!r}"
            raise ValueError(msg)


def _without_secrets(options: dict[str, Any]) -> dict[str, Any]:
    return {
        name: "***" if _is_secret(name) else _without_secrets(value) if isinstance(value, dict) else value
        for name, value in options.items()
    }


def _is_secret(name: str) -> bool:
    return any(word in name.lower() for word in _SECRET_WORDS)
