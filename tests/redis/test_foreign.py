"""Rows that other people wrote, hashes and JSON on a real server: what a client makes of them, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import select
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from featurechaos import AsyncFeatureClient, FeatureClient, Origin, Status
from featurechaos.clock import Clock, SystemClock
from featurechaos.codec import Layout, column, decode, encode_keys
from featurechaos.config import load
from featurechaos.demo.servers import ValkeyServer
from featurechaos.errors import RequestError, SpecError, StoreRefused, StoreTimeout, StoreUnavailable
from featurechaos.model import NO_TIME_US, DType, Feature, JoinKey, Verdict, View
from featurechaos.readings import rows_of
from featurechaos.stores import Ask, Place
from featurechaos.testing import ManualClock
from featurechaos_redis import RedisSpec, RedisStore
from featurechaos_redis.foreign import ForeignStore

pytestmark = pytest.mark.live

CLOCK = SystemClock()
NOW_S = 1_717_200_000.0
LAYOUTS = ("hash", "json")
FEATURES = {
    "seats": "int32",
    "weight": "float64",
    "is_leased": "bool",
    "maker": "string",
    "built": "timestamp",
    "embedding": "float32[3]",
    "tags": "list[string]",
}
ROW: dict[str, Any] = {
    "seats": 180,
    "weight": 78.25,
    "is_leased": True,
    "maker": "Æro",
    "built": "2019-03-01",
    "embedding": [1.0, 2.5, -3.0],
    "tags": ["a", ""],
}


class Keeper:
    """Somebody else's writer: puts rows as hashes or as JSON."""

    def __init__(self, client: Any, layout: str) -> None:
        self.client, self.layout = client, layout

    def put(self, key: bytes | str, row: Mapping[str, Any]) -> None:
        if self.layout == "json":
            self.client.set(key, json.dumps(row))
        else:
            self.client.hset(key, mapping={name: text(value) for name, value in row.items() if value is not None})


def text(value: Any) -> bytes | str:
    return value if isinstance(value, (bytes, str)) else json.dumps(value)


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def keeper(admin: Any, layout: str) -> Keeper:
    return Keeper(admin, layout)


def config(url: str, layout: str, view: Mapping[str, Any] | None = None, **source: Any) -> dict[str, Any]:
    plane = {"join_keys": {"tailnum": "string"}, "features": {name: {"dtype": kind} for name, kind in FEATURES.items()}}
    return {
        "project": "flights",
        "sources": {"primary": {"type": "redis", "url": url, "layout": layout, "timeout_s": 5.0, **source}},
        "views": [{"name": "plane", **plane, **(view or {})}],
        "policy": {"deadline_s": 20.0, "breaker": None, "last_known": None, "retry": None},
    }


@pytest.fixture
def client_of(valkey: ValkeyServer, layout: str) -> Iterator[Callable[..., FeatureClient]]:
    made: list[FeatureClient] = []

    def make(view: Mapping[str, Any] | None = None, **source: Any) -> FeatureClient:
        clock = ManualClock(NOW_S)
        made.append(FeatureClient.from_config(config(valkey.url, layout, view, **source), clock=clock))
        return made[-1]

    yield make
    for client in made:
        client.close()


def asked(client: FeatureClient, tailnums: Sequence[str], features: Sequence[str] = tuple(FEATURES)) -> Any:
    return client.get_online_features([f"plane:{name}" for name in features], {"tailnum": list(tailnums)})


def test_rows_come_back_as_they_were_written(keeper: Keeper, client_of: Callable[..., FeatureClient]) -> None:
    keeper.put("plane:N1", {**ROW, "event_timestamp": NOW_S - 60})
    keeper.put("plane:N2", {"seats": 2, "maker": None, "event_timestamp": "2024-05-31T23:59:00Z", "other": "x"})

    answer = asked(client_of(), ["N1", "N2", "gone"])

    told = answer.to_dict()
    assert {name: told[name][0] for name in FEATURES if name != "built"} == {
        k: v for k, v in ROW.items() if k != "built"
    }
    assert answer.columns["built"][0] == np.datetime64("2019-03-01", "us")
    assert answer.columns["seats"].dtype == np.int32
    assert {name: told[name][1] for name in FEATURES} == {**dict.fromkeys(FEATURES), "seats": 2}
    truth = answer.provenance("plane")
    assert truth.status.tolist() == [Status.PRESENT, Status.PRESENT, Status.NOT_FOUND]
    assert truth.origin.tolist() == [Origin.PRIMARY] * 3
    assert truth.age_s.tolist()[:2] == [60.0, 60.0]
    assert not answer.any_degraded


def test_a_row_that_cannot_be_read_is_corrupt_and_costs_no_other(
    keeper: Keeper, client_of: Callable[..., FeatureClient]
) -> None:
    keeper.put("plane:good", ROW)
    keeper.put("plane:bad", {**ROW, "seats": "many"})
    keeper.put("plane:large", {**ROW, "seats": 2**31})
    keeper.put("plane:short", {**ROW, "embedding": [1.0]})
    keeper.put("plane:late", {**ROW, "event_timestamp": "soon"})
    keeper.client.lpush("plane:list", "x")
    names = ["good", "bad", "large", "short", "late", "list", "good2"]
    keeper.put("plane:good2", ROW)

    answer = asked(client_of(), names)

    status = dict(zip(names, answer.provenance("plane").status.tolist(), strict=True))
    assert status == {name: Status.PRESENT if name.startswith("good") else Status.CORRUPT for name in names}
    assert answer.to_dict()["seats"] == [180, None, None, None, None, None, 180]


def test_bytes_of_another_layout_are_corrupt_and_not_missing(admin: Any, valkey: ValkeyServer, layout: str) -> None:
    Keeper(admin, "json" if layout == "hash" else "hash").put("plane:N1", ROW)

    with FeatureClient.from_config(config(valkey.url, layout)) as client:
        assert asked(client, ["N1"]).provenance("plane").status.tolist() == [Status.CORRUPT]


def test_embeddings_may_be_raw_floats_in_a_hash(admin: Any, valkey: ValkeyServer) -> None:
    for name, raw in {
        "N1": np.array([1, 2.5, -3], "<f4").tobytes(),
        "N2": b"[1, 2.5, -3]",
        "N3": b"[1,2.5,-3.0]",
        "N4": b"x" * 11,
    }.items():
        admin.hset(f"plane:{name}", mapping={"embedding": raw})
    assert len(b"[1,2.5,-3.0]") == 12

    with FeatureClient.from_config(config(valkey.url, "hash")) as client:
        answer = asked(client, ["N1", "N2", "N3", "N4"], ["embedding"])

    assert answer.columns["embedding"][:3].tolist() == [[1, 2.5, -3]] * 3
    assert answer.provenance("plane").status.tolist() == [Status.PRESENT] * 3 + [Status.CORRUPT]


def test_rows_without_an_event_time_have_no_age(keeper: Keeper, client_of: Callable[..., FeatureClient]) -> None:
    keeper.put("plane:N1", ROW)

    free, soft, hard = (client_of(view) for view in ({}, {"ttl_s": 3600}, {"max_age_s": 3600}))
    told = [asked(client, ["N1"]) for client in (free, soft, hard)]

    assert [each.provenance("plane").status.tolist() for each in told] == [
        [Status.PRESENT],
        [Status.EXPIRED],
        [Status.EXPIRED],
    ]
    assert np.isnan(told[0].provenance("plane").age_s[0])
    assert [each.to_dict()["seats"] for each in told] == [[180], [180], [None]], "never served past a hard limit"
    assert [each.any_degraded for each in told] == [False, True, True]


def test_names_and_times_are_where_the_config_says(keeper: Keeper, client_of: Callable[..., FeatureClient]) -> None:
    keeper.put("aircraft/{N1}", {"n_seats": 9, "weight": 1.5, "written": int((NOW_S - 5) * 1000)})
    own = {"key": "aircraft/{{{tailnum}}}", "fields": {"seats": "n_seats"}, "event_time_field": "written"}

    answer = asked(client_of(views={"plane": {**own, "time_unit": "ms"}}), ["N1"], ["seats", "weight"])

    assert answer.to_dict() == {"tailnum": ["N1"], "seats": [9], "weight": [1.5]}
    assert answer.provenance("plane").age_s.tolist() == [5.0]


def test_a_view_may_say_that_its_rows_have_no_time(keeper: Keeper, client_of: Callable[..., FeatureClient]) -> None:
    keeper.put("plane:N1", {**ROW, "event_timestamp": "of no use"})

    for source in ({"event_time_field": None}, {"views": {"plane": {"event_time_field": None}}}):
        answer = asked(client_of(**source), ["N1"])
        assert answer.provenance("plane").status.tolist() == [Status.PRESENT]


@pytest.mark.parametrize(
    ("keys", "entity", "stored"),
    [
        ({"origin": "string", "dest": "string"}, {"origin": ["JFK", "a b"], "dest": ["LAX", "%"]},
         ["plane:LAX:JFK", "plane:%:a b"]),
        ({"id": "int32", "kind": "string"}, {"id": [-7, 12], "kind": ["x", "é"]}, ["plane:-7:x", "plane:12:é"]),
        ({"id": "int64"}, {"id": [2**62, 1]}, [f"plane:{2**62}", "plane:1"]),
        ({"raw": "bytes"}, {"raw": [b"\xff\x00", b"}"]}, [b"plane:\xff\x00", b"plane:}"]),
        ({"at": "timestamp"}, {"at": [np.datetime64(1, "s"), np.datetime64(NOW_S.__int__(), "s")]},
         ["plane:1", "plane:1717200000"]),
    ],
)  # fmt: skip
def test_keys_of_every_kind_are_found(
    keeper: Keeper, client_of: Callable[..., FeatureClient], keys: Any, entity: Any, stored: list[Any]
) -> None:
    for at, key in enumerate(stored):
        keeper.put(key, {"seats": at})

    answer = client_of({"join_keys": keys}).get_online_features(["plane:seats"], entity)

    assert answer.columns["seats"].tolist() == [0, 1]
    assert answer.provenance("plane").status.tolist() == [Status.PRESENT] * 2


def test_an_alias_reads_the_same_rows_in_the_same_trip(keeper: Keeper, valkey: ValkeyServer, layout: str) -> None:
    keeper.put("plane:N1", {"seats": 1})
    keeper.put("plane:N2", {"seats": 2})
    whole = config(valkey.url, layout)
    whole["views"].append({"name": "spare", "from": "plane", "join_keys": {"spare_tailnum": "tailnum"}})

    with FeatureClient.from_config(whole) as client:
        entity = {"tailnum": ["N1", "N2"], "spare_tailnum": ["N2", "N9"]}
        answer = client.get_online_features(["plane:seats", "spare:seats"], entity, full_feature_names=True)

    assert answer.to_dict()["plane__seats"] == [1, 2]
    assert answer.to_dict()["spare__seats"] == [2, None]


def test_the_async_client_answers_the_same(keeper: Keeper, valkey: ValkeyServer, layout: str) -> None:
    keeper.put("plane:N1", {**ROW, "event_timestamp": NOW_S})
    keeper.put("plane:N2", {"seats": "many"})
    features, entity = [f"plane:{name}" for name in FEATURES], {"tailnum": ["N1", "N2", "N3"]}
    whole = config(valkey.url, layout)

    async def answered() -> Any:
        async with AsyncFeatureClient.from_config(whole, clock=ManualClock(NOW_S)) as client:
            assert await client.ready()
            return await client.get_online_features(features, entity)

    found = asyncio.run(answered())
    with FeatureClient.from_config(whole, clock=ManualClock(NOW_S)) as client:
        assert client.ready()
        wanted = client.get_online_features(features, entity)

    assert repr(found.to_dict(include_provenance=True)) == repr(wanted.to_dict(include_provenance=True))


# Never written.


def test_nothing_is_written_or_deleted_and_the_refusal_is_one_sentence(
    keeper: Keeper, client_of: Callable[..., FeatureClient], layout: str
) -> None:
    keeper.put("plane:N1", {"seats": 1})
    client = client_of()
    says = (
        "there is no source to write to: 'primary' is only read "
        f"(layout {layout}: whoever writes it goes on writing it)"
    )

    with pytest.raises(RequestError) as of_write:
        client.write_to_online_store("plane", {"tailnum": ["N1"], "event_timestamp": [1]})
    with pytest.raises(RequestError) as of_delete:
        client.delete("plane", {"tailnum": ["N1"]})

    assert str(of_write.value) == str(of_delete.value) == says
    assert keeper.client.keys("*") == [b"plane:N1"]


def test_the_async_client_refuses_too(valkey: ValkeyServer, layout: str) -> None:
    async def refused() -> None:
        async with AsyncFeatureClient.from_config(config(valkey.url, layout)) as client:
            with pytest.raises(RequestError, match="'primary' is only read"):
                await client.write_to_online_store("plane", {})

    asyncio.run(refused())


def test_a_packed_primary_beside_it_takes_the_rows(keeper: Keeper, valkey: ValkeyServer, layout: str) -> None:
    keeper.put("plane:N1", {"seats": 1})
    whole = config(valkey.url, layout, {"features": {"seats": {"dtype": "int32"}}})
    whole["sources"]["primary"]["role"] = "primary"
    whole["sources"]["new"] = {"type": "redis", "url": valkey.url, "role": "primary", "timeout_s": 5.0}

    with FeatureClient.from_config(whole) as client:
        report = client.write_to_online_store(
            "plane", {"tailnum": ["N1"], "seats": [2], "event_timestamp": [np.datetime64("2024-06-01", "us")]}
        )

    assert list(report.sources) == ["new"]


# What the config may say.


@pytest.mark.parametrize(
    ("source", "view", "says"),
    [
        ({"key": "{view}:{tail}"}, {}, "sources.primary: key has {tail}, which view 'plane' knows nothing of"),
        ({"key": "planes"}, {}, "sources.primary: key wants {tailnum} in it, a join key of view 'plane'"),
        ({"views": {"plane": {"key": "{"}}}, {}, "sources.primary: views.plane.key can't be read: "),
        ({"views": {"plan": {}}}, {}, "sources.primary: views has 'plan', which is no view read from here; they are"),
        ({"views": {"plane": {"fields": {"seat": "n"}}}}, {},
         "sources.primary: views.plane.fields has 'seat', which is no feature of that view; it has seats, weight"),
        ({"event_time_field": None}, {"ttl_s": 60},
         "sources.primary: event_time_field is null, so no row has an age, and view 'plane' has a ttl_s: every row"),
        ({"views": {"plane": {"event_time_field": None}}}, {"max_age_s": 60},
         "sources.primary: event_time_field is null"),
        ({"expire_s": 60}, {}, "sources.primary.expire_s: is for layout packed: rows of layout "),
        ({"time_unit": "min"}, {}, "sources.primary.time_unit: wanted auto, s, ms, us or ns, got 'min'"),
        ({"views": {"plane": {"keys": "x"}}}, {},
         "sources.primary.views.plane.keys: is not a known key, did you mean 'key'?"),
    ],
)  # fmt: skip
def test_a_config_that_does_not_fit_is_refused(layout: str, source: Any, view: Any, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(config("redis://127.0.0.1:1", layout, view, **source))

    assert str(caught.value).startswith(f"config: {says}")


def test_a_view_that_is_not_read_from_a_source_need_not_fit_it(layout: str) -> None:
    whole = config("redis://127.0.0.1:1", layout, key="p:{tailnum}")
    whole["sources"]["other"] = {"type": "memory"}
    airport = {"name": "airport", "join_keys": {"airport": "string"}, "features": {"x": {"dtype": "bool"}}}
    whole["views"].append({**airport, "policy": {"order": ["other"]}})

    assert load(whole).dump()["sources"]["primary"]["key"] == "p:{tailnum}"


def test_a_bypass_asks_nothing_else_of_a_config(layout: str) -> None:
    whole = config("redis://127.0.0.1:1", layout, views={"plane": {"fields": {"seats": "n"}}})
    whole["sources"] = {"first": {"type": "memory"}, **whole["sources"]}

    assert load(whole, environ={"FEATURECHAOS_BYPASS": "1"}).policies["plane"].order == ("first",)


def test_what_is_in_force_loads_again(layout: str) -> None:
    settings_ = load(config("redis://127.0.0.1:1", layout, views={"plane": {"fields": {"seats": "n"}}}))

    assert load(settings_.dump()).dump() == settings_.dump()


# The store itself.


def view_of(features: Mapping[str, str], keys: Mapping[str, str] | None = None) -> View:
    joins = tuple(JoinKey(name, DType.parse(kind), name) for name, kind in (keys or {"tailnum": "string"}).items())
    return View(
        "flights", "plane", "plane", joins, tuple(Feature(n, DType.parse(kind)) for n, kind in features.items())
    )


PLANE = view_of(FEATURES)


@pytest.fixture
def open_store(valkey: ValkeyServer, layout: str) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(*views: View, url: str = valkey.url, clock: Clock = CLOCK) -> Any:
        spec = RedisSpec.model_validate({"url": url, "layout": layout})
        made.append(RedisStore.open(spec, Place("primary", "flights", views or (PLANE,), clock)))
        return made[-1]

    yield make
    for store in made:
        store.close()


def ask_of(view: View, *columns: Any) -> Ask:
    keys, _, _ = encode_keys(view.join_keys, columns)
    return Ask(view, Layout.of(view), keys)


def soon() -> float:
    return CLOCK.monotonic() + 10


def test_a_pending_read_gives_what_a_read_gives(keeper: Keeper, open_store: Callable[..., Any]) -> None:
    for at in range(300):
        keeper.put(f"plane:N{at}", {**ROW, "seats": at, "event_timestamp": NOW_S + at})
    asks = [
        ask_of(PLANE, [f"N{at}" for at in range(302)]),
        ask_of(PLANE, ["N7"]),
        Ask(PLANE, Layout.of(PLANE), ask_of(PLANE, ["x"]).keys.take(np.array([], np.intp))),
    ]
    store = open_store()

    pending = store.begin(asks, soon())
    while (answers := pending.advance()) is None:
        poller = select.poll()
        poller.register(pending.fileno(), select.POLLIN)
        poller.poll(1000)

    wanted = store.read(asks, soon())
    for ask, got, other in zip(asks, answers, wanted, strict=True):
        rows, again = (rows_of(ask, each, {})[0] for each in (got, other))
        assert rows.words.tobytes() == again.words.tobytes()
        assert rows.tails == again.tails
        assert rows.verdicts.tolist() == again.verdicts.tolist()
    assert column(rows_of(asks[0], answers[0], {})[0], "seats")[:300].tolist() == list(range(300))
    assert store.begin([], soon()).advance() == []


def test_a_read_of_what_cannot_be_parsed_in_time_ends_in_a_timeout(
    keeper: Keeper, open_store: Callable[..., Any]
) -> None:
    keeper.put("plane:N1", ROW)
    clock = ManualClock()
    store = open_store(clock=clock)
    ask = ask_of(PLANE, ["N1"])
    until = clock.monotonic() + 10
    assert store.read([ask], until)

    replies = store._ask(store._reader.commands([ask])[0], until, replies=1)
    clock.advance(11.0)

    with pytest.raises(StoreTimeout, match="source 'primary': what came could not be read in time"):
        store._reader.answers([ask], replies, until)


def test_a_server_that_answers_something_else_is_unavailable(
    open_store: Callable[..., Any], impostor: Callable[[bytes], str], layout: str
) -> None:
    wrong = {
        "hash": [b"*2\r\n$1\r\na\r\n$1\r\nb\r\n", b"$1\r\na\r\n", b"*99999999999\r\n", b"*8\r\n" + b":1\r\n" * 8],
        "json": [b"*1\r\n$2\r\n{}\r\n", b":1\r\n", b"+OK\r\n*0\r\n"],
    }
    for reply in wrong[layout]:
        store = open_store(url=impostor(reply))
        with pytest.raises(StoreUnavailable):
            store.read([ask_of(PLANE, ["N1"])], soon())
    loading = open_store(url=impostor(b"-LOADING the dataset\r\n"))
    with pytest.raises(StoreUnavailable, match="LOADING"):
        loading.read([ask_of(PLANE, ["N1"])], soon())
    refusing = open_store(url=impostor(b"-NOPERM no\r\n"))
    with pytest.raises(StoreRefused, match="NOPERM"):
        refusing.read([ask_of(PLANE, ["N1"])], soon())


JUNK = st.binary(max_size=40) | st.sampled_from([b"[" * 5000, b'{"seats":1,"seats":2}', b'{"maker":"\\ud800"}', b"{}"])


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.dictionaries(st.sampled_from([*FEATURES, "event_timestamp"]), JUNK, max_size=4), max_size=4),
    texts=st.lists(JUNK, max_size=4),
)
def test_whatever_a_server_holds_a_read_gives_rows(
    valkey: ValkeyServer, rows: list[dict[str, bytes]], texts: list[bytes]
) -> None:
    with Redis(port=valkey.port, protocol=2) as client:
        client.flushall()
        client.hset("plane:good", mapping={"seats": 5})
        client.set("json:plane:good", b'{"seats": 5}')
        for at, row in enumerate(rows):
            if row:
                client.hset(f"plane:{at}", mapping=row)
        for at, each in enumerate(texts):
            client.set(f"json:plane:{at}", each)
    names = [*map(str, range(4)), "good"]
    for layout, key in (("hash", None), ("json", "json:{view}:{keys}")):
        with FeatureClient.from_config(config(valkey.url, layout, key=key)) as client_:
            answer = asked(client_, names)
        assert answer.to_dict()["seats"][-1] == 5
        assert answer.provenance("plane").status.tolist()[-1] == Status.PRESENT
        assert set(answer.provenance("plane").status.tolist()) <= {Status.PRESENT, Status.CORRUPT, Status.NOT_FOUND}


# A first snapshot.


def test_a_walk_gives_every_row_packed(keeper: Keeper, open_store: Callable[..., Any]) -> None:
    for at in range(50):
        keeper.put(f"plane:N{at}", {**ROW, "seats": at, "event_timestamp": NOW_S + at})
    keeper.put("plane:undated", {"seats": 100})
    keeper.put("plane:bad", {"seats": "x"})
    keeper.client.lpush("plane:other", "x")
    keeper.put("airport:JFK", {"seats": 3})
    store = open_store()
    assert isinstance(store, ForeignStore)

    pages = list(store.rows(PLANE, page=7))

    found = {known: blob for ids, blobs in pages for known, blob in zip(ids, blobs, strict=True)}
    assert len(found) == 53
    assert sorted(known for known, blob in found.items() if not blob) == [b"bad", b"other"]
    good = sorted(known for known, blob in found.items() if blob)
    keys, _, _ = encode_keys(PLANE.join_keys, [[known.decode() for known in good]])
    rows, _ = decode([found[known] for known in good], keys.own, Layout.of(PLANE))
    assert rows.verdicts.tolist() == [Verdict.FRESH] * 51
    seats = dict(zip(good, column(rows, "seats").tolist(), strict=True))
    assert seats == {b"undated": 100, **{f"N{at}".encode(): at for at in range(50)}}
    times = dict(zip(good, rows.event_time.tolist(), strict=True))
    assert times[b"undated"] == NO_TIME_US
    assert times[b"N7"] == int((NOW_S + 7) * 1e6)


def test_a_walk_over_integer_keys_skips_what_is_no_integer(keeper: Keeper, open_store: Callable[..., Any]) -> None:
    view = view_of({"seats": "int32"}, {"id": "int64"})
    for key in ("plane:7", "plane:-1", "plane:07", "plane:x"):
        keeper.put(key, {"seats": 1, "event_timestamp": NOW_S})

    pages = list(open_store(view).rows(view))

    found = {known: bool(blob) for ids, blobs in pages for known, blob in zip(ids, blobs, strict=True)}
    assert found == {b"7": True, b"-1": True, b"plane:07": False, b"plane:x": False}


def test_nobody_notes_how_far_foreign_rows_are_written(open_store: Callable[..., Any]) -> None:
    assert open_store().watermark(PLANE, soon()) is None
