"""`status`, `reload`, `source` and `faults` against a service that runs in this process, over its sockets."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from featurechaos import AsyncFeatureClient, FeatureClient, Origin, SpecError
from featurechaos.faults.remote import reload, steer
from tests.cli.conftest import MEMORY, Run, start

TOKEN = "a-token-that-only-tests-know"
SERVICE = (
    MEMORY.replace("{primary: {type: memory}}", "{primary: {type: memory}, second: {type: memory}}").replace(
        "{on_missing: default}", "{on_missing: default, deadline_s: 0.5}"
    )
    + "chaos: {enabled: true, max_share: 1.0, listen: '127.0.0.1:0'}\nmetrics: {port: 0}\n"
)


@pytest.fixture
def service(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FeatureClient]:
    """A service with a primary and a replica, and its config where the commands look for one."""
    (folder / "featurechaos.yaml").write_text(SERVICE)
    monkeypatch.setenv("FEATURECHAOS_CHAOS", "armed")
    monkeypatch.setenv("FEATURECHAOS_TOKEN", TOKEN)
    with FeatureClient.from_config(folder / "featurechaos.yaml") as client:
        at = [dt.datetime.fromtimestamp(client.clock.wall(), dt.UTC)]
        client.write_to_online_store("plane", {"tailnum": ["x"], "seats": [1], "event_timestamp": at})
        primary, second = client.store("primary"), client.store("second")
        second.rows |= primary.rows  # type: ignore[attr-defined]
        yield client


def at(client: FeatureClient) -> str:
    return str(client.status()["control"]).removeprefix("http://").removesuffix("/faults")


def origin(client: FeatureClient) -> Origin:
    return Origin(client.get_online_features(["plane:seats"], {"tailnum": ["x"]}).provenance("plane").origin[0])


def test_status_says_who_serves(service: FeatureClient, run: Run) -> None:
    origin(service)
    service.steer("second", "drain", reason="a disk is swapped")

    ran, raw = run("status", "--at", at(service)), run("status", "--at", at(service), "--json")

    assert (ran.code, ran.err) == (0, "")
    for word in ("flights", "primary", "drained", "a disk is swapped", "no fault is on", "served by"):
        assert word in ran.out
    told = json.loads(raw.out)
    assert told["sources"]["second"]["state"] == "drained"
    assert told["views"]["plane"]["serves"] == "primary"
    assert "degraded_requests" in told


def test_status_can_be_asked_of_the_metrics_endpoint(
    service: FeatureClient, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEATURECHAOS_TOKEN")
    monkeypatch.delenv("FEATURECHAOS_CHAOS")
    port = service.observer._endpoint.port  # type: ignore[union-attr]

    told = json.loads(run("status", "--at", f"127.0.0.1:{port}", "--json").out)

    assert told["project"] == "flights"
    assert "degraded_requests" not in told


def ports(folder: Path, client: FeatureClient, *, control: str, metrics: int | None) -> int:
    """Write the config as it would be with fixed ports; gives the service's own port of metrics."""
    text = SERVICE.replace("127.0.0.1:0", control)
    port: int = client.observer._endpoint.port  # type: ignore[union-attr]
    wanted = {None: "null", 0: str(port)}.get(metrics, str(metrics))
    (folder / "featurechaos.yaml").write_text(text.replace("{port: 0}", f"{{port: {wanted}}}"))
    return port


@pytest.mark.parametrize(
    ("token", "control", "why"),
    [
        ("another-token-altogether", None, "the token given is not the one that the service started with"),
        (TOKEN, "127.0.0.1:9", "no answer: [Errno 111] Connection refused"),
        (TOKEN, "127.0.0.1:0", "chaos.listen names no port a service can be reached at"),
    ],
)
def test_status_is_of_the_metrics_endpoint_where_the_control_endpoint_does_not_tell(
    service: FeatureClient, folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch, token: str, control: str | None,
    why: str,
) -> None:  # fmt: skip
    ports(folder, service, control=control or at(service), metrics=0)
    monkeypatch.setenv("FEATURECHAOS_TOKEN", token)

    ran = run("status", "--json")

    assert ran.code == 0
    told = json.loads(ran.out)
    assert told["project"] == "flights"
    assert "degraded_requests" not in told
    assert ran.err.count("\n") == 1
    assert why in ran.err
    assert "so this is from the metrics endpoint, without the ids of requests" in ran.err


def test_status_that_nobody_tells_says_whom_it_asked(
    service: FeatureClient, folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATURECHAOS_TOKEN", "another-token-altogether")
    ports(folder, service, control=at(service), metrics=9)
    both = run("status")
    ports(folder, service, control=at(service), metrics=None)
    one = run("status")
    elsewhere = run("status", "--at", at(service))

    assert {ran.code for ran in (both, one, elsewhere)} == {1}
    assert {ran.err.count("\n") for ran in (both, one, elsewhere)} == {1}
    assert f"http://{at(service)}/status: wanted the header" in both.err
    assert "status at http://127.0.0.1:9/status: no answer" in both.err
    assert "featurechaos.yaml names no metrics.port to be asked without a token" in one.err
    assert "metrics" not in elsewhere.err, "what was typed is asked alone"


def test_what_listens_there_and_is_no_service_is_told(service: FeatureClient, run: Run) -> None:
    port = service.observer._endpoint.port  # type: ignore[union-attr]

    ran = run("faults", "list", "--at", f"127.0.0.1:{port}")

    assert ran.code == 1
    assert ran.err.startswith(
        f"featurechaos: faults at http://127.0.0.1:{port}/faults: wanted an answer in JSON, got b"
    )


def test_status_says_what_it_would_be_like_without_the_first_source(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow = "deadline_s: 0.5, shadow: {share: 1.0}, last_known: null"
    (folder / "featurechaos.yaml").write_text(SERVICE.replace("deadline_s: 0.5", shadow))
    monkeypatch.setenv("FEATURECHAOS_TOKEN", TOKEN)
    with FeatureClient.from_config(folder / "featurechaos.yaml") as client:
        when = [dt.datetime.fromtimestamp(client.clock.wall() - 1, dt.UTC)] * 3
        client.write_to_online_store("plane", {"tailnum": ["x", "y", "z"], "seats": [1, 2, 3], "event_timestamp": when})
        client.store("second").rows |= dict(list(client.store("primary").rows.items())[:2])  # type: ignore[attr-defined]
        compared, tiers = threading.Event(), ["second", "last_known"]
        client.on_shadow(
            lambda *_: compared.set(),
            lambda: {"delays": {name: {"pairs": 1000, "flip_rate": 0.0004} for name in tiers}},
        )
        client.get_online_features(["plane:seats"], {"tailnum": ["x", "y", "z"]})
        assert compared.wait(10)

        ran = run("status", "--at", at(client))

    assert (
        "plane, if primary went away now: second answers 66.7 % of rows, 0 % of them other values, 0 s behind"
        in ran.out
    )
    assert "decisions of model delays that would be others: under 0.1 % on second, under 0.1 % on last known" in ran.out


def test_drain_hold_and_auto(service: FeatureClient, run: Run) -> None:
    ran = run("source", "drain", "primary", "--reason", "change 4711", "--at", at(service))

    assert (ran.code, ran.out, ran.err) == (0, "source 'primary': drain\n", "")
    standing = service._serving.steer.standing["primary"]
    assert (standing.order, standing.reason) == ("drain", "change 4711")
    assert json.loads(run("source", "hold", "primary", "--reason", "x", "--at", at(service), "--json").out) == {
        "source": "primary", "order": "hold", "views": [],
    }  # fmt: skip
    run("source", "auto", "primary", "--at", at(service))
    assert service._serving.steer.standing == {}


def rewritten(folder: Path, old: str, new: str) -> None:
    path = folder / "featurechaos.yaml"
    path.write_text(path.read_text().replace(old, new))


def test_a_reload_says_what_it_changed(service: FeatureClient, folder: Path, run: Run) -> None:
    same = run("reload", "--at", at(service))
    rewritten(folder, "deadline_s: 0.5", "deadline_s: 0.4, on_exhausted: raise")
    ran, again = run("reload", "--at", at(service)), run("reload", "--at", at(service), "--json")

    version = service.status()["policy"]["version"]
    assert (same.code, same.out) == (0, "nothing has changed\n")
    assert (ran.code, ran.err) == (0, f"policy {version} is in force\n")
    assert ran.out == "policy.deadline_s: 0.5 -> 0.4\npolicy.on_exhausted: default -> raise\n"
    assert json.loads(again.out) == {"changed": [], "version": version}
    assert service.settings.policy.deadline_s == 0.4
    assert f"policy {version}, loaded " in run("status", "--at", at(service)).out


def test_a_reload_that_is_refused_is_told_as_a_wrong_config_is(
    service: FeatureClient, folder: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    rewritten(folder, "second: {type: memory}", "second: {type: memory, timeout_s: 0.02}")
    why = "featurechaos.yaml: sources.second.timeout_s: 0.015 -> 0.02 wants a restart"

    with pytest.raises(SpecError, match="wants a restart"):
        reload(str(service.status()["control"]), TOKEN)
    asked, refused = caplog.messages[-2:]
    ran = run("reload", "--at", at(service))

    assert asked.startswith("reload: by ")
    assert f"pid {os.getpid()}" in asked
    assert refused == f"policy:flights: refused: {why} (incident {service.status()['policy']['incident']})"
    assert (ran.code, ran.out, ran.err) == (2, "", f"featurechaos: {why}\n")
    shown = run("status", "--at", at(service)).out
    assert "a reload was refused" in shown
    rewritten(folder, "deadline_s: 0.5", "deadline_s: -1")
    ran = run("reload", "--at", at(service))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "featurechaos: featurechaos.yaml: policy.deadline_s: wanted a number more than 0, got -1\n"


def test_a_service_that_was_made_from_a_mapping_has_nothing_to_read_anew(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATURECHAOS_TOKEN", TOKEN)
    (folder / "featurechaos.yaml").write_text(SERVICE)
    with FeatureClient.from_config({**yaml.safe_load(SERVICE), "metrics": None}) as client:
        client.ready()

        ran = run("reload", "--at", at(client))

    assert ran.code == 1
    assert "this client was made from a mapping" in ran.err


def test_an_async_service_is_reloaded_from_outside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURECHAOS_TOKEN", TOKEN)
    (folder / "featurechaos.yaml").write_text(SERVICE)

    async def day() -> Any:
        async with AsyncFeatureClient.from_config(folder / "featurechaos.yaml") as client:
            await client.ready()
            rewritten(folder, "deadline_s: 0.5", "deadline_s: 0.4")
            return await asyncio.to_thread(reload, str(client.status()["control"]), TOKEN)

    assert asyncio.run(day())["changed"] == ["policy.deadline_s: 0.5 -> 0.4"]


def test_who_orders_what_and_why_is_on_record(service: FeatureClient, caplog: pytest.LogCaptureFixture) -> None:
    steer(str(service.status()["control"]), TOKEN, "primary", "drain", reason="change 4711\nforged: a line")

    lines = [record.getMessage() for record in caplog.records if "drain" in record.getMessage()]
    assert len(lines) == 2
    assert all("4711" in line for line in lines)
    assert f"pid {os.getpid()}" in lines[1]
    assert not any("\n" in line for line in lines), "what comes from outside begins no line of its own"


def test_draining_the_last_source_is_done_and_said(service: FeatureClient, run: Run) -> None:
    run("source", "drain", "second", "--reason", "x", "--at", at(service))

    ran = run("source", "drain", "primary", "--reason", "x", "--at", at(service))

    assert ran.code == 0
    assert ran.err.startswith("no online source is left for airport_hourly, plane, dest")
    assert origin(service) in (Origin.DEFAULT, Origin.NONE)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("source drain primry --reason x", "orders at http://{at}/sources/primry: source wants one of primary, second"),
        ("source drain a/b --reason x", "source wants one of primary, second, got 'a/b'"),
        ("faults on outge primary --share 0.1 --reason x", "there is no fault 'outge', did you mean 'outage'?"),
        ("faults on delay primary --share 0.1 --reason x", "delay wants --set delay_s=VALUE"),
        (
            "faults on delay primary --set dely_s=1 --share 0.1 --reason x",
            "no argument 'dely_s', did you mean 'delay_s'?",
        ),
        ("faults on delay primary --set delay_s --share 0.1 --reason x", "--set wants NAME=VALUE, got 'delay_s'"),
        ("faults on outage nobody --share 0.1 --reason x", "source wants one of primary, second, got 'nobody'"),
    ],
)
def test_what_is_no_order_is_told_in_one_sentence(service: FeatureClient, run: Run, words: str, message: str) -> None:
    ran = run(*words.split(), "--at", at(service))

    assert ran.code != 0
    assert ran.err.count("\n") == 1
    assert message.format(at=at(service)) in ran.err


def test_a_wrong_token_is_refused(service: FeatureClient, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURECHAOS_TOKEN", "another-token-altogether")

    ran = run("source", "drain", "primary", "--reason", "x", "--at", at(service))

    assert ran.code == 1
    assert "the token given is not the one that the service started with" in ran.err
    assert service._serving.steer.standing == {}


@pytest.mark.parametrize("command", ["status", "reload", "source drain primary --reason x", "faults list"])
def test_a_config_that_names_no_port_says_what_to_write(folder: Path, run: Run, command: str) -> None:
    ran = run(*command.split())

    assert (ran.code, ran.out) == (2, "")
    assert "chaos.listen" in ran.err


@pytest.mark.parametrize("command", ["status", "reload", "faults list", "source auto primary"])
def test_a_service_that_is_not_there_is_told(
    folder: Path, run: Run, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATURECHAOS_TOKEN", TOKEN)

    ran = run(*command.split(), "--at", "127.0.0.1:9")

    assert ran.code == 1
    assert "no answer" in ran.err
    assert "is the service up, has it begun to read" in ran.err


@pytest.mark.parametrize("where", ["somewhere", ":9464", "localhost:http"])
def test_what_is_no_address_is_told(folder: Path, run: Run, where: str) -> None:
    ran = run("status", "--at", where)

    assert (ran.code, ran.err) == (2, f"featurechaos: --at wants HOST:PORT, got {where!r}\n")


def test_a_service_without_a_token_says_that_it_takes_no_orders(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("FEATURECHAOS_TOKEN", raising=False)

    with FeatureClient.from_config({**yaml.safe_load(SERVICE), "metrics": None}) as client:
        client.ready()

    assert "chaos.listen: FEATURECHAOS_TOKEN is not set; no orders are taken" in caplog.text


def test_a_fault_is_on_while_the_command_runs(service: FeatureClient, folder: Path, run: Run) -> None:
    words = ["faults", "on", "outage", "primary", "--share", "1", "--no-control", "--reason", "a test"]
    with start(*words, "--at", at(service), folder=folder) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert process.stderr.readline() == "outage:primary is on for at most 60 s; Ctrl-C ends it\n"
        listed = json.loads(run("faults", "list", "--at", at(service), "--json").out)
        shown = run("faults", "list", "--at", at(service)).out
        assert origin(service) == Origin.REPLICA
        process.send_signal(signal.SIGINT)
        said = process.stdout.read()

    assert process.returncode == 0
    assert [(one["fault"], one["source"], one["share"]) for one in listed] == [("outage", "primary", 1.0)]
    assert "a test" in shown
    assert said == "outage:primary is off (released): applied 1, spared 0, missed 0\n"
    assert service.chaos.live() == ()


def test_faults_off_ends_what_another_holds(service: FeatureClient, folder: Path, run: Run) -> None:
    words = ["faults", "on", "delay", "primary", "--set", "delay_s=0.001", "--share", "0.1", "--reason", "a test"]
    with start(*words, "--at", at(service), folder=folder) as process:
        assert process.stderr is not None
        process.stderr.readline()
        assert run("faults", "off", "--at", at(service)).out == "1 ended\n"
        assert service.chaos.live() == ()
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()

    assert (process.returncode, said) == (0, "")
    assert run("faults", "off", "--at", at(service)).out == "no fault was on\n"
    assert run("faults", "list", "--at", at(service)).out == "no fault is on\n"


def test_orders_are_taken_where_faults_are_not(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    config: Any = SERVICE.replace("enabled: true", "enabled: false")
    (folder / "featurechaos.yaml").write_text(config)
    monkeypatch.setenv("FEATURECHAOS_TOKEN", TOKEN)
    with FeatureClient.from_config(folder / "featurechaos.yaml") as client:
        client.ready()

        assert run("source", "drain", "primary", "--reason", "x", "--at", at(client)).code == 0
        ran = run("faults", "on", "outage", "primary", "--share", "1", "--reason", "x", "--at", at(client))

        assert ran.code == 1
        assert "chaos.enabled: wanted true" in ran.err
        assert client.chaos.live() == ()
    assert not [each for each in threading.enumerate() if each.name in ("featurechaos-control", "featurechaos-metrics")]
