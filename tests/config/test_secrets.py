"""Secrets are in no message, repr or dump, however they came in."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featurechaos.config import Settings
from featurechaos.config.secrets import Secrets, cut
from featurechaos.errors import SpecError

Load = Callable[..., Settings]
SECRET = "hunter2-hunter2"


def _everything_said(settings: Settings) -> str:
    sources = list(settings.sources.values())
    return "\n".join((repr(settings), str(settings), json.dumps(settings.dump()), repr(sources), str(sources)))


@pytest.mark.parametrize(
    ("over", "environ"),
    [
        (f"sources: {{primary: {{url: 'redis://user:{SECRET}@host/0'}}}}", {}),
        (f"sources: {{primary: {{url: 'redis://:{SECRET}@host/0'}}}}", {}),
        (f"sources: {{primary: {{url: 'redis://:a/#?{SECRET}@host/0'}}}}", {}),
        (f"sources: {{primary: {{url: 'redis://{SECRET}@host/0'}}}}", {}),
        (f"sources: {{primary: {{url: 'redis://host/0?password={SECRET}&db=1'}}}}", {}),
        (f"sources: {{primary: {{password: {SECRET}}}}}", {}),
        (f"sources: {{primary: {{options: {{ssl_keyfile_password: {SECRET}}}}}}}", {}),
        (f"sources: {{primary: {{options: {{nested: [{{client_secret: {SECRET}}}]}}}}}}", {}),
        ("sources: {primary: {url: 'redis://:${PW}@host/0'}}", {"PW": SECRET}),
        ("sources: {primary: {url: '${URL}'}}", {"URL": f"redis://user:{SECRET}@host/0"}),
        ("sources: {primary: {options: {anything: '${PW}'}}}", {"PW": SECRET}),
        ("sources: {standby: {endpoint_url: 'https://a:${PW}@host'}}", {"PW": SECRET}),
    ],
)
def test_a_secret_is_never_shown(loaded: Load, over: str, environ: dict[str, str]) -> None:
    settings = loaded(over, **environ)

    assert SECRET not in _everything_said(settings)
    assert "hunter2" not in _everything_said(settings)


def test_what_is_no_secret_stays_readable(loaded: Load) -> None:
    over = "sources: {primary: {url: 'redis://user:${PW}@host:6379/0'}, standby: {region: '${REGION}'}}"

    sources = loaded(over, PW=SECRET, REGION="eu-west-1").dump()["sources"]

    assert sources["primary"]["url"] == "redis://user:***@host:6379/0"
    assert sources["standby"]["region"] == "${REGION}"


@pytest.mark.parametrize(
    ("over", "environ"),
    [
        (f"sources: {{primary: {{url: 'http://user:{SECRET}@host'}}}}", {}),
        (f"sources: {{primary: {{url: ['redis://user:{SECRET}@host']}}}}", {}),
        (f"sources: {{primary: {{layout: 'redis://user:{SECRET}@host'}}}}", {}),
        (f"sources: {{primary: {{password: [{SECRET}]}}}}", {}),
        (f"sources: {{primary: 'redis://:{SECRET}@host'}}", {}),
        (f"sources: 'redis://:{SECRET}@host'", {}),
        (f"sources: {{primary: {{type: 'redis://:{SECRET}@host'}}}}", {}),
        (f"sources: {{primary: {{role: 'redis://:{SECRET}@host'}}}}", {}),
        (f"sources: {{standby: {{aws_secret_access_key: {SECRET}}}}}", {}),
        (f"sources: {{standby: {{options: {{SecretKey: {SECRET}}}}}}}", {}),
        (f"sources: {{standby: {{url: 's3://AKIA:{SECRET}@bucket'}}}}", {}),
        (f"chaos: {{listen: 'http://u:{SECRET}@h'}}", {}),
        (f"project: 'http://u:{SECRET}@h'", {}),
        ("sources: {primary: {url: '${PW}'}}", {"PW": SECRET}),
        ("sources: {primary: {url: 'http://:${PW}@h'}}", {"PW": SECRET}),
        ("sources: {primary: {timeout_s: '${PW}'}}", {"PW": SECRET}),
        ("sources: {primary: {type: '${PW}'}}", {"PW": SECRET}),
        ("sources: {primary: {role: '${PW}'}}", {"PW": SECRET}),
        ("policy: {on_missing: '${PW}'}", {"PW": SECRET}),
        ("policy: {order: ['${PW}']}", {"PW": SECRET}),
        ("project: '${PW} '", {"PW": SECRET}),
        ("chaos: {listen: '${PW}'}", {"PW": SECRET}),
        ("services: {m: ['${PW}']}", {"PW": SECRET}),
        ("services: {m: ['plane:${PW}']}", {"PW": SECRET}),
        ("impact: {reference_source: '${PW}'}", {"PW": SECRET}),
        ("views: [{name: '${PW} '}]", {"PW": SECRET}),
        ("views: [{name: v, from: '${PW}'}]", {"PW": SECRET}),
        ("views: [{name: v, join_keys: {k: '${PW}'}, features: {f: {dtype: int32}}}]", {"PW": SECRET}),
        ("views: [{name: v, join_keys: {k: int64}, features: {f: {dtype: '${PW}'}}}]", {"PW": SECRET}),
        (
            "views: [{name: v, join_keys: {k: int64}, features: {f: {dtype: int32, default: '${PW}'}}}]",
            {"PW": SECRET},
        ),
    ],
)
def test_a_secret_is_in_no_message_and_in_nothing_chained_to_it(
    loaded: Load, over: str, environ: dict[str, str]
) -> None:
    with pytest.raises(SpecError) as caught:
        loaded(over, **environ)

    said = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in said.partition("SpecError")[2]
    assert caught.value.__context__ is None


def test_a_secret_from_a_file_is_never_shown(loaded: Load, tmp_path: Path) -> None:
    file = tmp_path / "pw"
    file.write_text(f"{SECRET}\n", encoding="utf-8")

    settings = loaded(
        f"sources: {{primary: {{url: 'redis://:${{file:{file}}}@host', options: {{a: '${{file:{file}}}'}}}}}}"
    )

    assert settings.sources["primary"].spec.url == f"redis://:{SECRET}@host"  # type: ignore[attr-defined]
    assert "hunter2" not in _everything_said(settings)
    assert settings.dump()["sources"]["primary"]["options"] == {"a": f"${{file:{file}}}"}


@pytest.mark.parametrize(
    "over",
    [
        "sources: {standby: {aws_access_key_id: x}}",
        "sources: {standby: {options: {aws_session_token: x}}}",
        "sources: {standby: {options: {deep: [{secretAccessKey: x}]}}}",
        "sources: {standby: {region: AKIAIOSFODNN7EXAMPLE}}",
        "sources: {standby: {url: 's3://key:secret@bucket'}}",
    ],
)
def test_aws_keys_are_refused(loaded: Load, over: str) -> None:
    with pytest.raises(SpecError, match=r"sources.standby.*AWS keys are not taken from a config"):
        loaded(over)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://user:pw@h", "redis://user:***@h"),
        ("redis://:pw@h", "redis://:***@h"),
        ("redis://token@h", "redis://***@h"),
        ("rediss://u:p@ss:w@rd@h/0", "rediss://u:***@h/0"),
        ("redis://h?password=x&db=2&api_key=y", "redis://h?password=***&db=2&api_key=***"),
        ("unix:///run/valkey.sock?password=x", "unix:///run/valkey.sock?password=***"),
        ("a@b", "a@b"),
    ],
)
def test_addresses_are_cut(text: str, shown: str) -> None:
    assert cut(text) == shown


def test_percent_encoded_passwords_are_known_both_ways() -> None:
    secrets = Secrets.of({"url": "redis://:p%40ss-word@h"}, {}, frozenset())

    assert secrets.scrub("p%40ss-word and p@ss-word") == "*** and ***"


def test_short_secrets_are_cut_as_whole_words() -> None:
    secrets = Secrets.of({"password": "a", "token": 42}, {}, frozenset())

    assert secrets.scrub("a cat took a 42, not 423") == "*** cat took *** ***, not 423"


def test_plain_trees_are_redacted_by_key() -> None:
    tree: dict[str, Any] = {"password": None, "api_key": 5, "n": 1, "auth": ["x"], "on": True}

    assert Secrets().redacted(tree, ()) == {
        "password": None,
        "api_key": "***",
        "n": 1,
        "auth": ["***"],
        "on": True,
    }
