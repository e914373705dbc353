"""What must never be read back: passwords in addresses, secret keys, and whatever came from outside."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

Path = tuple[str | int, ...]

HIDDEN = "***"
_SECRET_KEY = re.compile(
    r"pass(word|wd|phrase)?$|secret|token|credential|^auth$|private_?key$|api_?key|access_?key", re.IGNORECASE
)
# A password may hold any character, an unescaped slash too: all up to the last @ is taken for it.
_USER_PART = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>.*)@", re.DOTALL)
_QUERY = re.compile(r"(?P<head>[?&;](?P<name>[^=&;#\s]*)=)(?P<value>[^&;#\s]*)")
_LEAST_PLAIN = 4
"""Shorter secrets are replaced as whole words only: cutting every `a` out of a message hides the message."""


def is_secret_key(key: object) -> bool:
    """Whether the value under a key of this name is a secret."""
    return isinstance(key, str) and bool(_SECRET_KEY.search(key))


def cut(text: str) -> str:
    """An address without its password: `redis://user:***@host/0`. Other text is left alone."""

    def user(match: re.Match[str]) -> str:
        name, colon, _ = match["user"].partition(":")
        return f"{match['scheme']}{name + colon if colon else ''}{HIDDEN}@"

    def query(match: re.Match[str]) -> str:
        return match["head"] + (HIDDEN if is_secret_key(match["name"]) else match["value"])

    return _QUERY.sub(query, _USER_PART.sub(user, text)) if "://" in text else text


def _inside(text: str) -> set[str]:
    """The secrets within an address, as written and percent-decoded."""
    if "://" not in text:
        return set()
    found = {match["value"] for match in _QUERY.finditer(text) if is_secret_key(match["name"])}
    if match := _USER_PART.search(text):
        name, colon, password = match["user"].partition(":")
        found.add(password if colon else name)
    return found | {unquote(each) for each in found}


@dataclass(frozen=True, slots=True)
class Secrets:
    """What is secret in one config.

    `words` are the secrets themselves; `templates` says, for every value that came from outside, how
    it is written in the file (`${REDIS_URL}`); `outside` says so for every text that came.
    """

    words: frozenset[str] = field(default=frozenset(), repr=False)
    templates: Mapping[Path, str] = field(default_factory=dict, repr=False)
    outside: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        tree: object,
        templates: Mapping[Path, str],
        words: frozenset[str],
        outside: Mapping[str, str] | None = None,
    ) -> Secrets:
        """Find the secrets in a config whose `${...}` are filled in; `words` are those already known."""
        found: set[str] = set(words)
        _collect(tree, found, is_secret=False)
        telling = {text: piece for text, piece in (outside or {}).items() if len(text) >= _LEAST_PLAIN}
        return cls(frozenset(found - {""}), templates, telling)

    def and_also(self, word: str | None) -> Secrets:
        """These and one more."""
        return self if not word else replace(self, words=self.words | {word})

    def hides(self, path: Path) -> bool:
        """Whether the value at a place is secret because of the key it stands under."""
        return any(is_secret_key(part) for part in path)

    def template(self, path: Path) -> str | None:
        """How the value at a place is written in the file, if any of it came from outside."""
        template = self.templates.get(path)
        return None if template is None else self.cut(template)

    def cut(self, text: str) -> str:
        """Text without passwords in addresses and without the known secrets."""
        return self.scrub(cut(text))

    def message(self, text: str) -> str:
        """A message that may repeat any value, without the known secrets and without what came from outside."""
        text = self.scrub(text)
        for word in sorted(self.outside, key=len, reverse=True):
            text = text.replace(word, self.outside[word])
        return text

    def scrub(self, text: str) -> str:
        """Text without the known secrets."""
        for word in sorted(self.words, key=len, reverse=True):
            if len(word) >= _LEAST_PLAIN:
                text = text.replace(word, HIDDEN)
            else:
                text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", HIDDEN, text)
        return text

    def redacted(self, value: Any, path: Path) -> Any:
        """A tree of plain values as it may be shown."""
        if isinstance(value, Mapping):
            return {key: self.redacted(each, (*path, key)) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.redacted(each, (*path, index)) for index, each in enumerate(value)]
        if self.hides(path) and value is not None:
            return HIDDEN
        if value is None or isinstance(value, (bool, int, float)):
            return value
        text = str(value)
        return self.cut(text) if "://" in text else self.template(path) or self.scrub(text)


def _collect(value: object, found: set[str], *, is_secret: bool) -> None:
    if isinstance(value, Mapping):
        for key, each in value.items():
            _collect(each, found, is_secret=is_secret or is_secret_key(key))
    elif isinstance(value, list):
        for each in value:
            _collect(each, found, is_secret=is_secret)
    elif isinstance(value, str):
        found |= {value} if is_secret else _inside(value)
    elif is_secret and isinstance(value, int) and not isinstance(value, bool):
        found.add(str(value))
