"""A redis source in a config: what is taken, what is refused and how, and that no secret is ever said."""

from __future__ import annotations

import pickle  # noqa: TID251 - a client pickles as its config
from typing import Any

import pytest
from pydantic import ValidationError

from featurechaos_redis import RedisSpec
from featurechaos_redis.spec import Address

SECRET = "hunter2-very-secret"


def spec(**settings: Any) -> RedisSpec:
    return RedisSpec.model_validate({"url": "redis://127.0.0.1", **settings})


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis://127.0.0.1", ("redis", "127.0.0.1", 6379, "", 0, None, None)),
        ("redis://host:1234/5", ("redis", "host", 1234, "", 5, None, None)),
        ("redis://host:1234/", ("redis", "host", 1234, "", 0, None, None)),
        ("redis://", ("redis", "localhost", 6379, "", 0, None, None)),
        ("rediss://u:p@host", ("rediss", "host", 6379, "", 0, "u", "p")),
        ("redis://:p%40%3A%2F@host/2", ("redis", "host", 6379, "", 2, None, "p@:/")),
        ("redis://[::1]:7/1", ("redis", "::1", 7, "", 1, None, None)),
        ("unix:///run/v.sock", ("unix", "", 6379, "/run/v.sock", 0, None, None)),
        ("unix://u:p@/run/v%20k.sock?db=4", ("unix", "", 6379, "/run/v k.sock", 4, "u", "p")),
    ],
)
def test_url_is_read(url: str, wanted: tuple[Any, ...]) -> None:
    found = spec(url=url).address

    assert (
        found.scheme,
        found.host,
        found.port,
        found.path,
        found.db,
        found.username,
        found.password,
    ) == wanted


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"layout": "feast"}, "layout 'feast' is not built yet; use 'packed'"),
        ({"url": "redis://a,b"}, "mode standalone wants one host in its url, got 2"),
        ({"mode": "cluster", "url": "unix:///run/v.sock"}, "mode cluster wants hosts in its url"),
        ({"mode": "cluster", "url": "redis://a/1"}, "a cluster has database 0 only, got 1"),
        ({"mode": "cluster", "url": "redis://a,b:x"}, "its host or port is malformed"),
        ({"mode": "other"}, "'standalone', 'cluster' or 'sentinel'"),
        ({"mode": "sentinel"}, "mode sentinel wants 'service_name'"),
        ({"mode": "sentinel", "options": {"service_name": ""}}, "mode sentinel wants 'service_name'"),
        ({"mode": "sentinel", "url": "unix:///x", "options": {"service_name": "m"}}, "wants hosts in its url"),
        ({"mode": "cluster", "options": {"service_name": "m"}}, "'service_name' is for mode sentinel"),
        ({"options": {"sentinel_kwargs": {}}}, "'sentinel_kwargs' is for mode sentinel, got mode standalone"),
        (
            {"mode": "sentinel", "options": {"service_name": "m", "sentinel_kwargs": {"db": 1}}},
            "'sentinel_kwargs' wants username, password, ssl or ssl_..., got 'db'",
        ),
        ({"layout": "other"}, "'packed', 'hash' or 'json'"),
        ({"key": "{view}:{k}"}, "key\n  Value error, is for layout hash or json: packed rows are written"),
        ({"views": {"v": {}}}, "views\n  Value error, is for layout hash or json"),
        ({"layout": "hash", "expire_s": 60}, "is for layout packed: rows of layout hash are only read"),
        ({"layout": "hash", "key": ""}, "at least 1 character"),
        ({"layout": "json", "time_unit": "minutes"}, "'auto', 's', 'ms', 'us' or 'ns'"),
        ({"layout": "json", "views": {"v": {"name": "x"}}}, "Extra inputs are not permitted"),
        ({"url": "http://host"}, "wants to begin with redis://, rediss:// or unix://, got http://"),
        ({"url": "127.0.0.1:6379"}, "wants to begin with redis://"),
        ({"url": "unix://"}, "wants the path of a socket"),
        ({"url": "redis://host/main"}, "wants a database number"),
        ({"url": "redis://host?timeout=5"}, "a url takes no timeout: settings of the driver go under options"),
        ({"url": "redis://host:port"}, "its host or port is malformed"),
        ({"timeout_s": 0}, "greater than 0"),
        ({"timeout_s": float("inf")}, "finite"),
        ({"connect_timeout_s": -1}, "greater than 0"),
        ({"max_connections": 0}, "greater than or equal to 1"),
        ({"expire_s": 0}, "greater than or equal to 0.001"),
        ({"role": "snapshot"}, "'primary' or 'replica'"),
        ({"options": {"socket_timeout": 1}}, "'socket_timeout' may not be given here; it is set by timeout_s"),
        ({"options": {"protocol": 4}}, "'protocol' wants 2 or 3, got 4"),
        ({"options": {"retry": 1}}, "it is set by policy.retry"),
        ({"hosts": "x"}, "Extra inputs are not permitted"),
    ],
)
def test_mistake_is_refused_by_name(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        spec(**settings)

    assert says in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@host:port",
        f"redis://host/{SECRET}",
        f"http://:{SECRET}@host",
        f"redis://:{SECRET}/@host:6379",
        f"{SECRET}",
        f"redis://host?password={SECRET}",
        f"redis://[{SECRET}]:1",
    ],
)
def test_bad_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        spec(url=url)

    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis://a:1,b:2,c", [("a", 1), ("b", 2), ("c", 6379)]),
        ("redis://u:p@a:1,b:2/0", [("a", 1), ("b", 2)]),
        ("rediss://:p%2C%40@[::1]:1,b:2/", [("::1", 1), ("b", 2)]),
    ],
)
def test_url_of_several_hosts_is_read(url: str, wanted: list[tuple[str, int]]) -> None:
    made = spec(url=url, mode="cluster")

    assert [(each.host, each.port) for each in made.addresses] == wanted
    assert len({(each.scheme, each.username, each.password) for each in made.addresses}) == 1
    one = made.at("::2", 7)
    assert (one.mode, one.address.host, one.address.port) == ("standalone", "::2", 7)
    assert (one.address.password, one.address.username) == (made.address.password, made.address.username)


def test_sentinels_are_read_from_the_url_and_their_own_options() -> None:
    options = {"service_name": "m", "sentinel_kwargs": {"password": SECRET, "ssl": True}, "ssl_ca_certs": "ca.pem"}
    made = spec(url="redis://u:p@a,b:2/3", mode="sentinel", options=options)

    one, other = made.sentinels()

    assert [(each.address.host, each.address.port) for each in (one, other)] == [("a", 26379), ("b", 2)]
    assert (one.address.scheme, one.address.db, one.address.username) == ("rediss", 0, None)
    assert (one.address.password, one.connect_timeout_s) == (SECRET, 0.5)
    assert one.options == {"ssl_ca_certs": "ca.pem"}
    assert (made.address.db, made.address.username, made.address.password) == (3, "u", "p")
    assert made.connection_options == {"ssl_ca_certs": "ca.pem"}
    assert set(made.secrets) == {"p", SECRET}
    assert SECRET not in repr(made) + made.model_dump_json()
    plain = spec(url="rediss://a", mode="sentinel", options={"service_name": "m"})
    assert plain.sentinels()[0].address.scheme == "rediss"


def test_password_of_several_hosts_is_in_no_text() -> None:
    made = spec(url=f"redis://me:{SECRET}@a:1,b:2", mode="cluster")

    assert made.redacted == "redis://me:***@a:1/0,b:2"
    assert SECRET not in repr(made) + str(made) + made.model_dump_json() + repr(made.addresses)
    assert set(made.secrets) == {SECRET}
    with pytest.raises(ValidationError) as caught:
        spec(url=f"redis://me:{SECRET}@a:1,b:{SECRET}", mode="cluster")
    assert SECRET not in str(caught.value)


def test_secrets_are_in_no_text_of_a_spec() -> None:
    made = spec(url=f"redis://reader:{SECRET}@host:1/2", options={"ssl_password": SECRET, "client_name": "me"})

    texts = [repr(made), str(made), repr(made.address), made.redacted, made.model_dump_json(), str(made.model_dump())]

    assert not [text for text in texts if SECRET in text]
    assert made.redacted == "redis://reader:***@host:1/2"
    assert made.model_dump()["options"] == {"ssl_password": "***", "client_name": "me"}
    assert set(made.secrets) == {SECRET}


def test_spec_is_frozen_and_pickles_whole() -> None:
    made = spec(url=f"redis://:{SECRET}@host")

    again = pickle.loads(pickle.dumps(made))

    assert again == made
    assert again.address.password == SECRET
    with pytest.raises(ValidationError):
        made.timeout_s = 1


def test_defaults_are_the_documented_ones() -> None:
    made = spec()

    assert made.model_dump(exclude={"url"}) == {
        "type": "redis",
        "layout": "packed",
        "key": None,
        "event_time_field": "event_timestamp",
        "time_unit": "auto",
        "views": {},
        "mode": "standalone",
        "role": None,
        "timeout_s": 0.015,
        "connect_timeout_s": 1.0,
        "max_connections": 64,
        "expire_s": None,
        "options": {},
    }


def test_address_as_a_person_reads_it() -> None:
    assert Address.parse("unix://:p@/run/v.sock?db=1").redacted == "unix://:***@/run/v.sock?db=1"
    assert Address.parse("redis://[::1]").redacted == "redis://[::1]:6379/0"
