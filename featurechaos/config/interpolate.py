"""`${VAR}`, `${VAR:-x}`, `${file:/run/secrets/x}` and `$$`: the one place that looks outside the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from featurechaos.config.mistakes import Mistake, Path
from featurechaos.config.secrets import Secrets

_PIECE = re.compile(r"\$\$|\$\{(?P<inner>[^{}]*)\}|\$\{")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN = re.compile(r"[-+.\deE]*|true|false|null")
_BARE = "(YAML reads a bare yes, no, on, off, true or false as a truth value: quote it)"
_MOST_DEPTH = 32
_MOST_VALUES = 200_000
_MOST_FILE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Resolved:
    """A config of plain mappings, lists and values, with every `${...}` filled in.

    `original` is the same before the filling: what may be kept, sent and read again elsewhere.
    """

    tree: dict[str, Any] = field(repr=False)
    original: dict[str, Any] = field(repr=False)
    secrets: Secrets


def resolve(tree: Mapping[str, Any], environ: Mapping[str, str]) -> Resolved:
    """Fill in what a config takes from outside.

    A value that is one `${...}` and nothing else, and comes out empty or as `null`, is null.
    A lone `$` stays as it is. Mistake names the path and the variable or file.
    """
    walk = _Walk(environ)
    filled, original = walk.visit(tree, ())
    secrets = Secrets.of(filled, walk.templates, frozenset(walk.words), walk.outside)
    return Resolved(filled, original, secrets)


class _Walk:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.templates: dict[Path, str] = {}
        self.words: set[str] = set()
        self.outside: dict[str, str] = {}
        self.left = _MOST_VALUES

    def visit(self, value: Any, path: Path) -> tuple[Any, Any]:
        """The value filled in, and a copy as it was. Bounded: YAML's aliases can make loops and bombs."""
        self.left -= 1
        if self.left < 0:
            raise Mistake((), f"has more than {_MOST_VALUES} values")
        if len(path) > _MOST_DEPTH:
            raise Mistake(path[:3], f"is nested more than {_MOST_DEPTH} deep")
        if isinstance(value, Mapping):
            pairs = {_key(key, path): self.visit(each, (*path, key)) for key, each in value.items()}
            return {key: pair[0] for key, pair in pairs.items()}, {key: pair[1] for key, pair in pairs.items()}
        if isinstance(value, (list, tuple)):
            several = [self.visit(each, (*path, index)) for index, each in enumerate(value)]
            return [pair[0] for pair in several], [pair[1] for pair in several]
        return (self.fill(value, path) if isinstance(value, str) and "$" in value else value), value

    def fill(self, text: str, path: Path) -> str | None:
        """One text with its pieces filled in."""

        def piece(match: re.Match[str]) -> str:
            if match[0] == "$$":
                return "$"
            if match["inner"] is None:
                raise Mistake(path, "has a ${ without its }, or one inside another; write $$ for a dollar")
            self.templates[path] = text
            return self.value(match["inner"], path)

        filled = _PIECE.sub(piece, text)
        whole = _PIECE.fullmatch(text)
        return None if whole and whole["inner"] is not None and filled in ("", "null") else filled

    def value(self, inner: str, path: Path) -> str:
        """What one `${...}` stands for."""
        if inner.startswith("file:"):
            content = _content(inner.removeprefix("file:"), path)
            self.words.add(content)
            return content
        name, has_default, default = inner.partition(":-")
        if not _NAME.fullmatch(name):
            raise Mistake(
                path,
                "has a ${...} that is none of ${VAR}, ${VAR:-x} and ${file:/path}; write $$ for a dollar",
            )
        value = self.environ.get(name, "")
        if has_default and not value:
            return default
        if name not in self.environ:
            raise Mistake(path, f"the environment variable {name} is not set (${{{name}:-x}} would give it a default)")
        # A number or a truth value is no secret where its key does not say so, and messages are full of them.
        if not _PLAIN.fullmatch(value):
            self.outside[value] = f"${{{name}}}"
        return value


def _key(key: object, path: Path) -> str:
    if isinstance(key, str):
        return key
    hint = f" {_BARE}" if isinstance(key, bool) else ""
    word = str(key).lower() if isinstance(key, bool) or key is None else repr(key)
    raise Mistake(path, f"wanted keys that are text, got {word}{hint}")


def _content(file: str, path: Path) -> str:
    """The text of a secret's file, without the newline at its end."""
    try:
        with FilePath(file).open("rb") as stream:
            content = stream.read(_MOST_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not a path"
    else:
        if len(content) <= _MOST_FILE_BYTES and (text := _text(content)) is not None:
            return text.removesuffix("\n").removesuffix("\r")
        reason = f"wanted text of at most {_MOST_FILE_BYTES} bytes"
    raise Mistake(path, f"the file {file!r} cannot be used: {reason}")


def _text(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None
