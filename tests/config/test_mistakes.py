"""Every mistake gets one sentence: where, what was wanted, what came."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from featurechaos.config import Settings, load
from featurechaos.errors import SpecError

ONE_VIEW = "{name: v, join_keys: {k: int64}, features: {f: {dtype: float32}}}"

SECOND = "sources: {second: {type: redis, url: 'redis://h'}}"
MISTAKES = [
    # Keys that nobody knows.
    ("polcy: {}", "config: polcy: is not a known key, did you mean 'policy'?"),
    ("policy: {retry: {atempts: 2}}", "policy.retry.atempts: is not a known key, did you mean 'attempts'?"),
    ("policy: {on-missing: accept}", "policy.on-missing: is not a known key, did you mean 'on_missing'?"),
    ("metrics: {zzz: 1}", "metrics.zzz: is not a known key, known here: port"),
    (
        "sources: {primary: {timeout: 1}}",
        "sources.primary.timeout: is not a known key, did you mean 'timeout_s'?",
    ),
    ("sources: {primary: {rol: replica}}", "sources.primary.rol: is not a known key, did you mean 'role'?"),
    ("views: [{name: v, nam: w}]", "views[0].nam: is not a known key, did you mean 'name'?"),
    (
        "views: [{name: v, join_keys: {k: int64}, features: {f: {dtyp: int32}}}]",
        "views[0].features.f.dtyp: is not a known key, did you mean 'dtype'?",
    ),
    (
        f"views: [{ONE_VIEW[:-1]}, policy: {{deadline_s: 1}}}}]",
        "views[0].policy.deadline_s: is not a known key, known here: order, last_known, on_missing",
    ),
    # The wrong kind of value.
    ("policy: {retry: {attempts: 1.5}}", "policy.retry.attempts: wanted a whole number, got 1.5"),
    ("policy: {retry: {attempts: yes}}", "policy.retry.attempts: wanted a number, got true"),
    ("policy: {deadline_s: fast}", "policy.deadline_s: wanted a number, got 'fast'"),
    ("policy: {deadline_s: null}", "policy.deadline_s: wanted a number, got null"),
    ("policy: {deadline_s: .nan}", "policy.deadline_s: wanted a finite number, got nan"),
    ("policy: {deadline_s: .inf}", "policy.deadline_s: wanted a finite number, got inf"),
    ("policy: null", "policy: wanted a mapping, got null"),
    ("policy: {retry: 3}", "policy.retry: wanted a mapping, got 3"),
    ("policy: {order: primary}", "policy.order: wanted a list, got 'primary'"),
    ("policy: {on_missing: acept}", "policy.on_missing: wanted accept, fallback or default, got 'acept'"),
    ("policy: {on_expired: accept}", "policy.on_expired: wanted serve, fallback or default, got 'accept'"),
    ("policy: {on_exhausted: null}", "policy.on_exhausted: wanted default or raise, got null"),
    ("chaos: {enabled: maybe}", "chaos.enabled: wanted true or false, got 'maybe'"),
    ("project: off", "project: wanted text, got false (YAML reads a bare yes, no, on, off, true or false"),
    ("project: 2024-01-31", "project: wanted text, got the date 2024-01-31 (quote it)"),
    ("views: {name: v}", "views: wanted a list, got a mapping"),
    ("views: [plane]", "views[0]: wanted a mapping, got 'plane'"),
    ("sources: {primary: 'redis://h'}", "sources.primary: wanted a mapping, got 'redis://h'"),
    ("sources: {primary: {timeout_s: yes}}", "sources.primary.timeout_s: wanted a number, got true"),
    (
        "sources: {primary: {max_connections: many}}",
        "sources.primary.max_connections: wanted a whole number, got 'many'",
    ),
    ("services: {no: ['plane:seats']}", "services: wanted keys that are text, got false (YAML reads a bare"),
    ("views: [{name: v, join_keys: {1: int64}}]", "views[0].join_keys: wanted keys that are text, got 1"),
    # Impossible values.
    ("policy: {deadline_s: 0}", "policy.deadline_s: wanted a number more than 0, got 0"),
    ("policy: {deadline_s: -1}", "policy.deadline_s: wanted a number more than 0, got -1"),
    ("policy: {retry: {attempts: 0}}", "policy.retry.attempts: wanted a number within 1..10, got 0"),
    (
        "policy: {retry: {wait_first_s: -0.1}}",
        "policy.retry.wait_first_s: wanted a number at least 0, got -0.1",
    ),
    (
        "policy: {retry: {budget_ratio: 1.5}}",
        "policy.retry.budget_ratio: wanted a number within 0..1, got 1.5",
    ),
    (
        "policy: {breaker: {failure_rate: 50}}",
        "policy.breaker.failure_rate: wanted a number more than 0 and at most 1",
    ),
    (
        "policy: {breaker: {slow_rate: 0}}",
        "policy.breaker.slow_rate: wanted a number more than 0 and at most 1, got 0",
    ),
    ("policy: {breaker: {min_calls: 0}}", "policy.breaker.min_calls: wanted a number at least 1, got 0"),
    (
        "policy: {last_known: {keep_s: -900}}",
        "policy.last_known.keep_s: wanted a number more than 0, got -900",
    ),
    ("policy: {last_known: {max_rows: 0}}", "policy.last_known.max_rows: wanted a number at least 1, got 0"),
    ("policy: {hedge: {delay_s: 0.01}}", "policy.hedge.delay_s: is not a known key, known here: "),
    ("policy: {hedge: {quantile: 1}}", "policy.hedge.quantile: wanted a number more than 0 and less than 1, got 1"),
    ("policy: {hedge: {after_min_s: 0}}", "policy.hedge.after_min_s: wanted a number more than 0, got 0"),
    (
        "policy: {hedge: {after_min_s: 0.005, after_max_s: 0.004}}",
        "policy.hedge.after_max_s: wanted at least after_min_s, which is 0.005, got 0.004",
    ),
    (
        "policy: {hedge: {}}",
        "policy.hedge: wanted a replica as the second online source of some view's order, got none",
    ),
    (
        f"{{{SECOND}, policy: {{hedge: {{after_min_s: 0.015}}, order: [primary, second], deadline_s: 1}}}}",
        "policy.hedge.after_min_s: wanted less than sources.primary.timeout_s, which is 0.015, got 0.015",
    ),
    (
        f"{{{SECOND}, policy: {{hedge: {{after_max_s: 0.02}}, order: [primary, second], deadline_s: 1}}}}",
        "policy.hedge.after_max_s: wanted less than sources.primary.timeout_s, which is 0.015, got 0.02",
    ),
    ("chaos: {max_share: 1.01}", "chaos.max_share: wanted a number within 0..1, got 1.01"),
    (
        "chaos: {listen: '0.0.0.0:9911'}",
        "chaos.listen: wanted a loopback address and a port such as 127.0.0.1:9911",
    ),
    ("chaos: {listen: '127.0.0.1:99110'}", "chaos.listen: wanted a loopback address and a port"),
    (
        "{chaos: {listen: 'localhost:9464'}, metrics: {port: 9464}}",
        "chaos.listen: wanted another port than metrics.port, which is 9464, got 'localhost:9464'",
    ),
    ("impact: {sample_share: 2%}", "impact.sample_share: wanted a number, got '2%'"),
    ("impact: {flip_budget: -0.1}", "impact.flip_budget: wanted a number within 0..1, got -0.1"),
    ("metrics: {port: 70000}", "metrics.port: wanted a number within 0..65535, got 70000"),
    ("project: 'a:b'", "project: wanted letters, digits, _ and -, got 'a:b'"),
    ("policy: {empty: {share: 0}}", "policy.empty.share: wanted a number"),
    # Sources.
    (
        "sources: {'a b': {type: redis}}",
        "sources: wanted source names of letters, digits, _ . and -, got 'a b'",
    ),
    ("sources: {other: {url: x}}", "sources.other.type: is missing, known here: memory, redis, s3"),
    (
        "sources: {other: {type: reddis}}",
        "sources.other.type: there is no type of source called 'reddis', did you mean 'redis'?",
    ),
    ("sources: {other: {type: 3}}", "sources.other.type: wanted text, got 3"),
    ("sources: {other: {type: redis}}", "sources.other.url: is missing"),
    ("sources: {primary: {layout: hash}}", "sources.primary.layout: wanted packed, got 'hash'"),
    (
        "sources: {primary: {url: 'http://h'}}",
        "sources.primary.url: wanted redis:// or rediss://, got http://h",
    ),
    ("sources: {standby: {role: primary}}", "sources.standby.role: type s3 wanted snapshot, got 'primary'"),
    (
        "sources: {primary: {role: snapshot}}",
        "sources.primary.role: type redis wanted primary or replica, got 'snapshot'",
    ),
    (
        "sources: {primary: {role: boss}}",
        "sources.primary.role: type redis wanted primary or replica, got 'boss'",
    ),
    ("policy: {order: [primry]}", "policy.order[0]: there is no source 'primry', did you mean 'primary'?"),
    ("policy: {order: [primary, primary]}", "policy.order[1]: the source 'primary' is there twice"),
    ("policy: {order: []}", "policy.order: wanted at least one source, got an empty list"),
    (
        "impact: {reference_source: witness}",
        "impact.reference_source: there is no source 'witness', known here: primary, standby",
    ),
    (
        f"views: [{ONE_VIEW[:-1]}, policy: {{order: [x]}}}}]",
        "views[0].policy.order[0]: there is no source 'x'",
    ),
    # Views.
    ("views: []", "views: wanted at least one view, got none"),
    (
        "views: [{name: v, features: {f: {dtype: int32}}}]",
        "views[0].join_keys: wanted at least one join key, got none",
    ),
    ("views: [{name: v, join_keys: {k: int64}}]", "views[0].features: wanted at least one feature, got none"),
    ("views: [{join_keys: {k: int64}}]", "views[0].name: is missing"),
    (f"views: [{ONE_VIEW}, {ONE_VIEW}]", "views[1].name: the view 'v' is there twice"),
    ("views: [{name: 'a:b'}]", "views[0].name: wanted letters, digits, _ . and -, got 'a:b'"),
    ("views: [{name: service}]", "views[0].name: 'service' is taken"),
    (
        "views: [{name: v, join_keys: {k: int64}, features: {'a:b': {dtype: int32}}}]",
        "views[0].features: wanted a name of 1 to 128 characters without a colon, got 'a:b'",
    ),
    (
        "views: [{name: v, join_keys: {k: int64}, features: {k: {dtype: int32}}}]",
        "views[0].features.k: is named like a join key",
    ),
    (
        "views: [{name: v, join_keys: {k: float32}, features: {f: {dtype: int32}}}]",
        "views[0].join_keys.k: join key 'k' wants one of int32, int64, string, bytes, timestamp, got float32",
    ),
    (
        "views: [{name: v, join_keys: {k: int64}, features: {f: {dtype: float16}}}]",
        "views[0].features.f.dtype: dtype 'float16' is not one of bool, int32",
    ),
    (
        "views: [{name: v, join_keys: {k: int64}, features: {f: int32}}]",
        "views[0].features.f: wanted a mapping such as {dtype: int64}, got 'int32'",
    ),
    (
        (
            "views: [{name: v, join_keys: {k: int64},"
            " features: {f: {dtype: 'float64[4096]'}, g: {dtype: 'float64[4096]'}}}]"
        ),
        "views[0].features: view 'v' wants 65584 bytes a row, most is 65536",
    ),
    (f"views: [{ONE_VIEW[:-1]}, ttl_s: 0}}]", "views[0].ttl_s: wanted a number more than 0, got 0"),
    (f"views: [{ONE_VIEW[:-1]}, max_age_s: -5}}]", "views[0].max_age_s: wanted a number more than 0, got -5"),
    (
        (
            "views: [{name: a, join_keys: {k: int64}, features: {b__c: {dtype: int32}}},"
            " {name: a__b, join_keys: {k: int64}, features: {c: {dtype: int32}}}]"
        ),
        "views: a:b__c and a__b:c have one full name, 'a__b__c'",
    ),
    # Aliases.
    (f"views: [{ONE_VIEW}, {{name: w, from: u}}]", "views[1].from: there is no view 'u', known here: v"),
    (
        f"views: [{ONE_VIEW}, {{name: w, from: v}}, {{name: x, from: w}}]",
        "views[2].from: 'w' takes its features from another view too: name that one",
    ),
    (
        f"views: [{ONE_VIEW}, {{name: w, from: v, ttl_s: 5}}]",
        "views[1].ttl_s: is taken from view 'v': leave it out here",
    ),
    (
        f"views: [{ONE_VIEW}, {{name: w, from: v, join_keys: {{dest: airport}}}}]",
        "views[1].join_keys.dest: view 'v' has no join key 'airport', known here: k",
    ),
    (
        f"views: [{ONE_VIEW}, {{name: w, from: v, join_keys: {{a: k, b: k}}}}]",
        "views[1].join_keys.b: the join key 'k' already comes from 'a'",
    ),
    (
        (
            "views: [{name: v, join_keys: {k: int64, l: int64}, features: {f: {dtype: int32}}},"
            " {name: w, from: v, join_keys: {l: k}}]"
        ),
        "views[1].join_keys: two join keys would come from one column",
    ),
    (
        f"views: [{ONE_VIEW}, {{name: w, from: v, join_keys: {{f: k}}}}]",
        "views[1].features.f: is named like a join key",
    ),
    # Services.
    (
        "services: {m: []}",
        "services.m: wanted at least one reference such as view:feature, got an empty list",
    ),
    ("services: {m: [seats]}", "services.m[0]: wanted a reference such as view:feature, got 'seats'"),
    ("services: {m: ['plan:seats']}", "services.m[0]: there is no view 'plan', did you mean 'plane'?"),
    (
        "services: {m: ['plane:seat']}",
        "services.m[0]: view 'plane' has no feature 'seat', did you mean 'seats'?",
    ),
    ("services: {m: ['plane:seats', 'plane:seats']}", "services.m[1]: 'plane:seats' stands here twice"),
    # Plans that cannot work.
    (
        "policy: {breaker: {slow_s: 0.015}}",
        "policy.breaker.slow_s: wanted less than sources.primary.timeout_s, which is 0.015, got 0.015",
    ),
    (
        "policy: {deadline_s: 0.030}",
        (
            "policy.deadline_s: wanted at least 0.037 for what view 'airport_hourly' may take "
            "(primary 2 x 0.015 + 0.002 of waits, 0.005 in reserve), got 0.03"
        ),
    ),
    (
        "sources: {second: {type: redis, url: 'redis://h', timeout_s: 0.02}}\npolicy: {order: [primary, second]}",
        (
            "policy.deadline_s: wanted at least 0.079 for what view 'airport_hourly' may take (primary 2 x 0.015 + "
            "0.002 of waits, second 2 x 0.02 + 0.002 of waits, 0.005 in reserve), got 0.05"
        ),
    ),
    (
        "policy: {retry: {attempts: 4}, deadline_s: 0.078}",
        "wanted at least 0.079 for what view 'airport_hourly' may take (primary 4 x 0.015 + 0.014 of waits",
    ),
]


@pytest.mark.parametrize(("over", "message"), MISTAKES)
def test_a_mistake_is_told_in_one_sentence(loaded: Callable[..., Settings], over: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        loaded(over)

    assert message in str(caught.value)
    assert str(caught.value).startswith("config: ")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


DEFAULTS = [
    ("bool", "1", "wanted true or false, got 1"),
    ("int32", "1.5", "wanted a whole number, got 1.5"),
    ("int32", "true", "wanted a whole number, got true"),
    ("int32", "3000000000", "wanted a whole number that fits int32, got 3000000000"),
    ("int64", "'7'", "wanted a whole number, got '7'"),
    ("float32", ".nan", "wanted a finite number (leave the default out for null), got nan"),
    ("float32", "1.0e+300", "wanted a number that fits float32, got 1e+300"),
    ("float64", "abc", "wanted a number, got 'abc'"),
    ("string", "5", "wanted text (quote it), got 5"),
    ("bytes", "[1]", "wanted text (quote it), got a list"),
    ("timestamp", "yesterday", "wanted a date and time such as 2024-01-31T12:00:00Z, got 'yesterday'"),
    ("float32[3]", "[1, 2]", "wanted 3 values for float32[3], got 2"),
    ("float32[3]", "[1, 2, x]", "wanted a number, got 'x'"),
    ("list[int64]", "4", "wanted a list, got 4"),
    ("list[string]", "[a, 1]", "wanted text (quote it), got 1"),
]


@pytest.mark.parametrize(("dtype", "default", "message"), DEFAULTS)
def test_a_default_must_fit_its_dtype(loaded: Callable[..., Settings], dtype: str, default: str, message: str) -> None:
    over = f"views: [{{name: v, join_keys: {{k: int64}}, features: {{f: {{dtype: '{dtype}', default: {default}}}}}}}]"

    with pytest.raises(SpecError) as caught:
        loaded(over)

    assert str(caught.value) == f"config: views[0].features.f.default: {message}"


FILES = [
    ("", "f.yaml: is empty"),
    ("# nothing\n", "f.yaml: is empty"),
    ("- a\n- b\n", "f.yaml: wanted a mapping at the top, got a list"),
    ("just words", "f.yaml: wanted a mapping at the top, got a str"),
    ("project: a\nviews:\n  - {name: b\nsources: {}\n", "f.yaml: line 4: "),
    ("project: a\n\tviews: []\n", "f.yaml: line 2: found character '\\t' that cannot start any token"),
    (
        "project: a\nsources: {}\nproject: b\n",
        "f.yaml: line 3: the key 'project' stands twice in one mapping",
    ),
    ("policy:\n  retry: {attempts: 1, attempts: 2}\n", "f.yaml: line 2: the key 'attempts' stands twice"),
    ("a: 2024-02-31\n", "f.yaml: a value is not what it looks like: day is out of range"),
    (
        "a: !!python/object/apply:os.getcwd []\n",
        "f.yaml: line 1: a value starts with !, which means a tag in YAML",
    ),
    ("a: *b\n", "f.yaml: line 1: a value starts with *, which means an alias in YAML"),
    ("a: \x01\n", "f.yaml: it holds a character that YAML does not allow"),
    ("[" * 5000, "f.yaml: it is nested too deeply"),
    ("a: &a [*a]\n", "f.yaml: a[0][0]: is nested more than 32 deep"),
]


@pytest.mark.parametrize(("text", "message"), FILES)
def test_a_file_that_is_no_config_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(text, encoding="utf-8")

    with pytest.raises(SpecError) as caught:
        load(file)

    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_aliases_cannot_blow_a_file_up(tmp_path: Path) -> None:
    file = tmp_path / "bomb.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k + 1}: &a{k + 1} [{', '.join([f'*a{k}'] * 10)}]" for k in range(8)]
    file.write_text("\n".join(lines), encoding="utf-8")

    with pytest.raises(SpecError, match=r"bomb\.yaml: has more than 200000 values"):
        load(file)


def test_merged_keys_may_be_given_again(tmp_path: Path, stores: Mapping[str, Any], sample_text: str) -> None:
    file = tmp_path / "f.yaml"
    views = "views:\n  - &plane {name: plane, join_keys: {tailnum: string}, features: {seats: {dtype: int32}}}\n"
    again = "  - {<<: *plane, name: twin}\nservices: {}\npolicy: "
    file.write_text(sample_text.partition("views:")[0] + views + again + "{deadline_s: 0.05}\n", encoding="utf-8")

    assert list(load(file, stores=stores, environ={}).views) == ["plane", "twin"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.yaml", "nowhere.yaml: cannot be read from 'nowhere.yaml': No such file or directory"),
        ("project: a\nviews: []", "config: wanted the path of a YAML file or a mapping, got text"),
        (42, "config: wanted the path of a YAML file or a mapping, got int"),
        ("nul\0.yaml", "nul\0.yaml: cannot be read from"),
    ],
)
def test_a_source_that_is_no_file_is_told(source: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(source)

    assert str(caught.value).startswith(message)


def test_bytes_that_are_no_text_are_told_with_their_line(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(b"project: a\nsources: \xff\n")

    with pytest.raises(SpecError, match=r"f\.yaml: line 2: it is not UTF-8 text"):
        load(file)


def test_messages_begin_with_the_files_name(tmp_path: Path, stores: Mapping[str, Any], sample_text: str) -> None:
    file = tmp_path / "featurechaos.yaml"
    file.write_text(sample_text.replace("attempts: 2", "attempts: 0"), encoding="utf-8")

    with pytest.raises(SpecError) as caught:
        load(str(file), stores=stores, environ={})

    assert str(caught.value) == "featurechaos.yaml: policy.retry.attempts: wanted a number within 1..10, got 0"
