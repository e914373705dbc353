"""The playground, checked as far as it can be without Docker."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import yaml

from featurechaos.demo.servers import S3Server, ValkeyServer
from featurechaos.metrics import NAMES

LOOPBACK = re.compile(r"127\.0\.0\.1:(\d+):(\d+)")
TAGGED = re.compile(r"[\w./-]+:(?!latest$)[\w.-]*\d[\w.-]*")


@pytest.fixture(scope="session")
def compose(root: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((root / "docker-compose.yml").read_text()))


@pytest.fixture(scope="session")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict(compose["services"])


@pytest.fixture(scope="session")
def dockerfile(root: Path) -> str:
    return (root / "docker" / "Dockerfile").read_text()


def published(service: dict[str, Any]) -> list[int]:
    return [int(match[1]) for port in service["ports"] if (match := LOOPBACK.fullmatch(port))]


def inside(service: dict[str, Any]) -> list[int]:
    return [int(match[2]) for port in service["ports"] if (match := LOOPBACK.fullmatch(port))]


def section(text: str, heading: str) -> str:
    """The part of a Markdown text under a heading, up to the next of its level or above."""
    found = re.search(rf"^(#+) {heading}\n(.*?)(?=^#{{1,2}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no heading {heading!r}"
    return found[2]


def test_every_image_is_tagged(services: dict[str, dict[str, Any]], dockerfile: str) -> None:
    images = [service["image"] for service in services.values()]
    bases = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)

    assert [image for image in images + bases if not TAGGED.fullmatch(image)] == []


@pytest.mark.parametrize("image", ["valkey/valkey", "valkey/valkey:latest", "ghcr.io/a/b", "a/b:stable"])
def test_an_image_without_a_version_would_be_found(image: str) -> None:
    assert not TAGGED.fullmatch(image)


def test_every_port_is_bound_to_loopback_and_once(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service["ports"]]
    outside = [port for service in services.values() for port in published(service)]

    assert [port for port in ports if not LOOPBACK.fullmatch(port)] == []
    assert len(outside) == len(set(outside))


def test_every_service_says_when_it_is_well(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["healthcheck"]["test"], name
        for other in service.get("depends_on", {}):
            assert services[other]["healthcheck"], f"{name} waits for {other}"


def test_the_readme_lists_the_ports_of_the_file(root: Path, services: dict[str, dict[str, Any]]) -> None:
    table = re.findall(
        r"^\| *`?([\w-]+)`? *\| *(\d[\d, ]*)", section((root / "README.md").read_text(), "Docker"), re.MULTILINE
    )
    listed: dict[str, list[int]] = {}
    for name, ports in table:
        listed.setdefault(name, []).extend(int(port) for port in re.findall(r"\d+", ports))

    assert {name: sorted(ports) for name, ports in listed.items()} == {
        name: sorted(published(service)) for name, service in services.items()
    }


def test_every_variable_has_a_default_or_is_in_the_readme(root: Path) -> None:
    readme = (root / "README.md").read_text()
    text = (root / "docker-compose.yml").read_text()

    for name, default in re.findall(r"(?<!\$)\$\{(\w+)(:-[^}]*)?\}", text):
        assert default or f"`{name}`" in readme, name


def test_every_mounted_file_is_there(root: Path, compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in compose["volumes"] or (root / source).exists(), f"{name}: {source}"


def test_what_the_image_copies_is_there_and_not_left_out(root: Path, dockerfile: str) -> None:
    kept = [line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    sources = [source for copy in copies for source in copy.split()]

    assert len(sources) >= len(copies) > 0
    for source in sources:
        assert (root / source).exists(), source
        assert source.split("/")[0] in kept, source


def test_toxiproxy_stands_between_the_application_and_the_primary(
    root: Path, services: dict[str, dict[str, Any]]
) -> None:
    (proxy,) = json.loads((root / "docker" / "toxiproxy.json").read_text())
    listen, upstream = int(proxy["listen"].rpartition(":")[2]), proxy["upstream"].split(":")

    assert listen in inside(services["toxiproxy"])
    assert int(upstream[1]) in inside(services[upstream[0]])
    assert f"toxiproxy:{listen}" in services["app"]["environment"]["PRIMARY_URL"]


def test_the_application_finds_what_it_asks_for(services: dict[str, dict[str, Any]]) -> None:
    environment = services["app"]["environment"]

    for name in ("PRIMARY_URL", "REPLICA_URL", "S3_ENDPOINT_URL"):
        host, port = re.findall(r"//([\w-]+):(\d+)", environment[name])[0]
        assert int(port) in inside(services[host]), name


def test_prometheus_scrapes_the_application(root: Path, services: dict[str, dict[str, Any]]) -> None:
    config = yaml.safe_load((root / "docker" / "prometheus.yml").read_text())
    targets = [
        target for job in config["scrape_configs"] for each in job["static_configs"] for target in each["targets"]
    ]

    assert targets == [f"app:{services['app']['environment']['METRICS_PORT']}"]
    assert inside(services["app"]) == [int(services["app"]["environment"]["METRICS_PORT"])]


@pytest.fixture(scope="session")
def dashboard(root: Path) -> dict[str, Any]:
    return dict(json.loads((root / "docker/grafana/dashboards/featurechaos.json").read_text()))


def test_the_dashboard_asks_for_every_metric_and_no_other(dashboard: dict[str, Any]) -> None:
    queries = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    asked = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"featurechaos_\w+", queries)}

    assert asked == set(NAMES)


def test_every_panel_has_a_unit_and_a_place_of_its_own(dashboard: dict[str, Any]) -> None:
    squares: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        own = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert not own & squares, panel["title"]
        squares |= own


def test_grafana_finds_its_source_and_its_dashboard(
    root: Path, services: dict[str, dict[str, Any]], dashboard: dict[str, Any]
) -> None:
    provisioning = root / "docker" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "featurechaos.yml").read_text())["providers"]
    host, port = re.findall(r"//([\w-]+):(\d+)", source["url"])[0]
    mounts = [mount.split(":")[1] for mount in services["grafana"]["volumes"]]

    assert int(port) in inside(services[host])
    assert provider["options"]["path"] in mounts
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}


@contextmanager
def application(root: Path, environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The playground's service as a process of ours, and the port of its metrics."""
    argv = [sys.executable, str(root / "docker" / "app.py")]
    with subprocess.Popen(argv, env=os.environ | environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = ""
            while not (told := re.search(r"metrics on port (\d+)", said)):
                line = process.stderr.readline()
                assert line, said
                said += line
            yield process, int(told[1])
        finally:
            process.kill()


def wait_for(pattern: str, port: int) -> None:
    """Until a line of the metrics matches; at most 20 seconds."""
    text = ""
    for _ in range(100):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            text = reply.read().decode()
        if re.search(pattern, text, re.MULTILINE):
            return
        Event().wait(0.2)
    pytest.fail(f"no line like {pattern} in\n{text}")


@pytest.mark.live
def test_the_application_answers_from_the_next_source_when_the_primary_dies(root: Path, tmp_path: Path) -> None:
    rows = r'^featurechaos_rows_total\{(?=.*origin="%s")(?=.*status="PRESENT").*\} [1-9]'
    with ValkeyServer() as primary, ValkeyServer() as replica, S3Server(buckets=("features",)) as s3:
        environment = s3.credentials() | {
            "PRIMARY_URL": primary.url,
            "REPLICA_URL": replica.url,
            "S3_ENDPOINT_URL": s3.endpoint_url,
            "METRICS_PORT": "0",
            "XDG_CACHE_HOME": str(tmp_path),
        }
        with application(root, environment) as (process, port):
            wait_for(rows % "PRIMARY", port)
            wait_for(r"^featurechaos_snapshot_age_seconds\{.*\} \d", port)
            replica.kill()
            primary.kill()
            wait_for(rows % "(SNAPSHOT|LAST_KNOWN)", port)
            process.terminate()

            assert process.wait(20) == 0
