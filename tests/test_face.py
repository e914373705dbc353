"""What users and other programs lean on: public names, numbers fixed for ever, and notes as documented."""

from __future__ import annotations

import ast
import datetime as dt
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import featurechaos
from featurechaos import AsyncFeatureClient, Cause, FeatureClient, Origin, Response, Status, errors, testing
from featurechaos.codec import Layout
from featurechaos.errors import StoreUnavailable
from featurechaos.events import CATALOGUE
from featurechaos.faults import Delay, Outage, Stale
from featurechaos.testing import ManualClock
from tests.layers.kit import add_rows, view_of

FACE: Mapping[str, list[str]] = {
    "featurechaos": [
        "AsyncFeatureClient",
        "Cause",
        "ChaosRefused",
        "Exhausted",
        "FeatureClient",
        "FeatureError",
        "Origin",
        "PartialWrite",
        "Provenance",
        "RequestError",
        "Response",
        "SpecError",
        "Status",
        "WriteReport",
    ],
    "featurechaos.faults": ["Delay", "Fault", "Outage", "Stale"],
    "featurechaos.impact": ["ImpactMonitor", "Report"],
    "featurechaos.testing": [
        "AsyncMemoryStore",
        "AsyncStoreContract",
        "ManualClock",
        "MemorySpec",
        "MemoryStore",
        "StoreContract",
        "Told",
        "event_time_of",
        "play",
    ],
}


@pytest.mark.parametrize("module", FACE)
def test_the_public_names_are_these(module: str) -> None:
    found = importlib.import_module(module)

    assert sorted(found.__all__) == FACE[module]
    for name in found.__all__:
        assert getattr(found, name) is not None


def test_numbers_that_are_stored_and_sent_never_change() -> None:
    assert {each.name: each.value for each in Origin} == {
        "NONE": 0, "PRIMARY": 1, "REPLICA": 2, "SNAPSHOT": 3, "LAST_KNOWN": 4, "DEFAULT": 5,
    }  # fmt: skip
    assert {each.name: each.value for each in Status} == {
        "UNAVAILABLE": 0, "PRESENT": 1, "NOT_FOUND": 3, "EXPIRED": 4, "CORRUPT": 5,
    }  # fmt: skip
    assert {each.name: each.value for each in Cause} == {
        "NONE": 0, "MISSING": 1, "EXPIRED": 2, "CORRUPT": 3, "TIMEOUT": 4, "REFUSED": 5, "BREAKER_OPEN": 6,
        "NO_TIME": 7, "EMPTY": 8, "KEY_NULL": 9,
    }  # fmt: skip


CALLS: Mapping[str, str] = {
    "from_config": "source, *, clock=None",
    "get_online_features": "features, entity_rows, full_feature_names=False, *, deadline_s=None, max_age_s=None, "
    "on_exhausted=None, request_id=None",
    "reference": "response",
    "write_to_online_store": "view, table",
    "delete": "view, entity_rows",
    "publish_snapshot": "view, table, as_of=None, allow_shrink=False",
    "refresh": "timeout_s=60",
    "ready": "full=False, freeze=False",
    "status": "",
    "steer": "source, order, *, reason",
    "explain": "",
    "stats": "",
    "close": "",
}


@pytest.mark.parametrize("client", [FeatureClient, AsyncFeatureClient])
@pytest.mark.parametrize("name", CALLS)
def test_calls_take_what_they_say(client: Any, name: str) -> None:
    assert written(getattr(client, name)) == CALLS[name]


def test_a_response_takes_what_it_says() -> None:
    assert written(Response.to_dict) == "include_event_timestamps=False, include_provenance=False"
    assert written(Response.to_df) == "include_event_timestamps=False, include_provenance=False"
    assert written(Response.to_numpy) == ""
    assert written(Response.provenance) == "view"
    assert written(Response.tags) == "row"


@pytest.mark.parametrize(
    ("fault", "given"),
    [
        (Outage, "source, mode='refuse'"),
        (Delay, "source, delay_s, spread=0.0"),
        (Stale, "view, age_s, visible=True"),
    ],
)
def test_faults_take_what_they_say(fault: Any, given: str) -> None:
    assert written(fault) == given


def written(call: Any) -> str:
    """The parameters of a call without annotations and `self`."""
    signature = inspect.signature(call)
    kept = [
        each.replace(annotation=inspect.Parameter.empty)
        for name, each in signature.parameters.items()
        if name != "self"
    ]
    return str(signature.replace(parameters=kept, return_annotation=inspect.Signature.empty)).strip("()")


def test_every_error_is_one_of_ours_and_says_what_it_is() -> None:
    found = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, Exception)]

    assert len(found) > 12
    for error in found:
        assert issubclass(error, errors.FeatureError)
        assert error.__doc__
    tree = inspect.getdoc(errors)
    assert tree is not None
    assert all(error.__name__ in tree for error in found), "the tree in the module's words is complete"


def test_without_pytest_the_testing_tools_still_import() -> None:
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "import featurechaos.testing as t\n"
        "t.ManualClock(), t.MemoryStore()\n"
        "try: t.StoreContract\n"
        "except ImportError: print('wants pytest')\n"
    )

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert told == "wants pytest\n"
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        testing.Nothing  # noqa: B018


# Notes: the one stream that counters, metrics, logs and histories hear.


def words(root: Path) -> Iterator[tuple[str, str]]:
    """Every string written in the package, outside of docstrings and the catalogue itself, with its file."""
    for path in (root / "featurechaos").rglob("*.py"):
        if path.name != "events.py":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value, path.name


def test_every_note_is_told_somewhere(root: Path) -> None:
    told = {word for word, _ in words(root)}

    assert set(CATALOGUE) <= told


def test_every_note_that_is_told_is_in_the_catalogue(root: Path) -> None:
    things = {name.partition(".")[0] for name in CATALOGUE}
    shape = re.compile(rf"({'|'.join(things)})\.[a-z_]+ed|breaker\.\w+ing")
    plans = {"layers", "faults"}
    told = {word for folder in plans for word, _ in words_in(root / "featurechaos" / folder) if shape.fullmatch(word)}

    assert told <= set(CATALOGUE)
    assert len(told) > 8


def words_in(folder: Path) -> Iterator[tuple[str, str]]:
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value, path.name


@pytest.mark.parametrize("note", CATALOGUE)
def test_every_note_is_documented(root: Path, note: str) -> None:
    pages = [root / "ARCHITECTURE.md", root / "README.md", *(root / "docs").rglob("*.md")]
    told = "\n".join(page.read_text(encoding="utf-8") for page in pages if page.is_file())

    assert f"`{note}`" in told


def fields_of(note: str) -> set[str]:
    """The fields a note says it has."""
    _, _, listed = CATALOGUE[note].partition("fields: ")
    return {field.split()[0] for field in re.sub(r"\([^)]*\)", "", listed).split(", ") if field.strip()}


BAD_DAY: Mapping[str, Any] = {
    "project": "t",
    "sources": {
        "primary": {"type": "memory"},
        "second": {"type": "memory"},
        "standby": {"type": "memory", "role": "snapshot"},
    },
    "views": [
        {"name": "v", "join_keys": {"k": "int64"}, "features": {"f": {"dtype": "float32"}}, "ttl_s": 60},
        {"name": "w", "from": "v", "join_keys": {"k": "k"}, "policy": {"order": ["primary", "standby"]}},
    ],
    "policy": {
        "breaker": {"min_calls": 3, "slow_s": 0.012},
        "retry": {"budget_burst": 3, "budget_ratio": 0},
        "hedge": {},
        "deadline_s": 0.1,
    },
    "chaos": {"enabled": True, "max_share": 1.0},
}


def steered(client: FeatureClient) -> None:
    """Every order an operator may give."""
    client.reload(BAD_DAY)
    with pytest.raises(errors.SpecError):
        client.reload({**BAD_DAY, "project": "u"})
    for order in ("drain", "hold", "auto"):
        client.steer("second", order, reason="a test")


def test_notes_have_the_fields_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """One client through a bad day: every note it tells has its fields and no others."""
    monkeypatch.setenv("FEATURECHAOS_CHAOS", "armed")
    clock = ManualClock()
    client = FeatureClient.from_config(BAD_DAY, clock=clock)
    heard: list[tuple[str, set[str]]] = []
    client.listen(lambda name, about, fields: heard.append((name, set(fields))))
    client._world.sleep = clock.advance
    store: Any = client.store("primary")

    def healing(seconds: float) -> None:
        clock.advance(seconds)
        store.fail_with = None

    def get(view: str = "w") -> None:
        clock.advance(0.05)
        client.get_online_features([f"{view}:f"], {"k": [1]})

    at = [dt.datetime.fromtimestamp(clock.wall(), dt.UTC)]
    client.write_to_online_store("v", {"k": [1], "f": [1.0], "event_timestamp": at})
    client.store("second").rows |= store.rows  # type: ignore[attr-defined]
    slow = Delay("primary", 0.010)
    for fault, view in ((slow, "v"), (Outage("primary"), "w"), (Stale("w", 5.0), "w")):
        with client.chaos.inject(fault, share=1.0, lease_s=9, seed=7, reason="a test", control=False):
            get(view)
    wider = view_of("v", f="float32", g="float32")
    add_rows(store, clock, {1: 2.0}, view=wider)
    clock.advance(2)
    get()
    store.described[Layout.of(wider).hash] = Layout.of(wider).describe()
    for seconds in (11, 100):
        clock.advance(seconds)
        get()
    store.fail_with = StoreUnavailable("once")
    client._world.sleep = healing
    get()
    client._world.sleep = clock.advance
    with client.chaos.inject(slow, share=1.0, lease_s=9, seed=7, reason="a test", control=False):
        get("v")
        get("v")
    steered(client)
    store.fail_with = StoreUnavailable("gone")
    for _ in range(9):
        get()
    with pytest.raises(errors.PartialWrite):
        client.write_to_online_store("v", {"k": [1], "f": [1.0], "event_timestamp": at})
    store.fail_with = None
    clock.advance(2)
    for _ in range(90):
        get()
    many = {"k": list(range(100, 400)), "f": [1.0] * 300, "event_timestamp": at * 300}
    client.write_to_online_store("v", many)
    for kept in ({}, dict(store.rows)):
        client.get_online_features(["v:f"], {"k": many["k"]})
        store.rows = kept
        for _ in range(3):
            client.get_online_features(["v:f"], {"k": many["k"]})

    assert {name for name, _ in heard} >= set(CATALOGUE)
    for name, fields in heard:
        assert fields == fields_of(name), name


def test_the_version_is_one() -> None:
    from importlib.metadata import version

    assert featurechaos.__version__ == version("featurechaos")
