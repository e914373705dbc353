"""A YAML file as plain mappings, lists and values; what is wrong with it, in one sentence with the line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurechaos.errors import SpecError

if TYPE_CHECKING:
    from yaml.nodes import MappingNode

MOST_BYTES = 1 << 20


def read(source: object) -> tuple[str, Mapping[str, Any]]:
    """What a path or mapping says, and what to call it in messages: its file name, or `config`."""
    if isinstance(source, Mapping):
        return "config", source
    if not isinstance(source, (str, os.PathLike)) or (isinstance(source, str) and "\n" in source):
        came = "text" if isinstance(source, str) else type(source).__name__
        msg = f"config: wanted the path of a YAML file or a mapping, got {came}"
        raise SpecError(msg)
    path = Path(source)
    name = path.name or str(path)
    return name, parse(_text(path, name), name=name)


def parse(text: str, *, name: str) -> Mapping[str, Any]:
    """YAML text as a mapping. Nothing in it can run code; a key that stands twice is refused."""
    import yaml

    problem = ""
    tree: object = None
    try:
        tree = yaml.load(text, Loader=_loader())  # noqa: S506  a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        problem = f"{line}{_without_values(error.problem or 'it is not YAML')}"
    except yaml.YAMLError:
        problem = "it holds a character that YAML does not allow"
    except RecursionError:
        problem = "it is nested too deeply"
    except ValueError as error:
        # A date or number that looks right and is not, such as 2024-02-31.
        problem = f"a value is not what it looks like: {error}"
    if not problem and tree is None:
        problem = "is empty"
    if not problem and not isinstance(tree, Mapping):
        problem = f"wanted a mapping at the top, got a {type(tree).__name__}"
    if problem or not isinstance(tree, Mapping):
        msg = f"{name}: {problem}"
        raise SpecError(msg)
    return tree


def _text(path: Path, name: str) -> str:
    problem = ""
    try:
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        problem = f"cannot be read from {str(path)!r}: {getattr(error, 'strerror', None) or error}"
    else:
        if len(content) > MOST_BYTES:
            problem = f"is longer than {MOST_BYTES} bytes"
        else:
            try:
                return content.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                line = content[: error.start].count(b"\n") + 1
                problem = f"line {line}: it is not UTF-8 text"
    msg = f"{name}: {problem}"
    raise SpecError(msg)


def _without_values(problem: str) -> str:
    """A complaint of YAML's without what it quotes: a password may begin with * (alias) or ! (tag)."""
    if problem.startswith("found undefined alias"):
        return "a value starts with *, which means an alias in YAML, and there is none of that name (quote it)"
    if problem.startswith("could not determine a constructor for the tag"):
        return "a value starts with !, which means a tag in YAML, and tags are not taken (quote it)"
    return problem


def _loader() -> type[Any]:
    """PyYAML's safe loader, refusing keys that stand twice and reading `1e-3` as a number (YAML 1.2)."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> MappingNode:
            # Here rather than while constructing, when merged keys (`<<`) have joined a mapping's own.
            node = super().compose_mapping_node(anchor)
            seen: set[tuple[str, str]] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                if (key.tag, key.value) in seen:
                    problem = f"the key {key.value!r} stands twice in one mapping"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add((key.tag, key.value))
            return node

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(\d+|\d*\.\d+|\d+\.\d*)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )
    return Loader
