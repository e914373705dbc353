"""The command line over a real Valkey and an S3 server: what a person does by hand, start to end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis

from featurechaos import FeatureClient
from featurechaos.clock import SystemClock
from featurechaos.demo.servers import S3Server, ValkeyServer
from tests.cli.conftest import Run

pytestmark = pytest.mark.live

CONFIG = """
project: flights
sources:
  primary: {{type: redis, url: "{valkey}", timeout_s: 0.2}}
  standby: {{type: s3, url: "s3://features/{prefix}", endpoint_url: "{s3}", region: us-east-1, cache_dir: "{cache}"}}
views:
  - name: plane
    join_keys: {{tailnum: string}}
    features: {{seats: {{dtype: int32}}, note: {{dtype: string}}, embedding: {{dtype: "float32[4]"}}}}
    ttl_s: null
  - {{name: pair, join_keys: {{year: int64, tailnum: string}}, features: {{x: {{dtype: float64}}}}, ttl_s: null}}
policy: {{deadline_s: 1.0, last_known: null}}
metrics: {{port: {metrics}}}
"""
ROWS = 2_500


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server(buckets=("features",)) as server:
        yield server


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def world(s3: S3Server, valkey: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config over both servers, and planes in the primary."""
    for name, value in s3.credentials().items():
        monkeypatch.setenv(name, value)
    # The metrics port is taken, as by the service that a command is run beside.
    text = CONFIG.format(
        valkey=valkey.url, s3=s3.endpoint_url, prefix=uuid4().hex, cache=tmp_path / "cache", metrics=valkey.port
    )
    (tmp_path / "featurechaos.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    settings = text.replace(f"port: {valkey.port}", "port: null")
    (tmp_path / "quiet.yaml").write_text(settings)
    with FeatureClient.from_config(tmp_path / "quiet.yaml") as client:
        client.write_to_online_store("plane", planes(ROWS))
        client.delete("plane", [{"tailnum": "N|7"}])
    return tmp_path


def planes(count: int, when: datetime | None = None) -> dict[str, Any]:
    return {
        "tailnum": [f"N|{at}" for at in range(count)],
        "seats": list(range(count)),
        "note": ["old" if at % 2 else None for at in range(count)],
        "embedding": [[at, 0.5, 1, 2] for at in range(count)],
        "event_timestamp": [when or datetime(2024, 6, 1, tzinfo=UTC)] * count,
    }


def csv_of(count: int, *, day: int) -> str:
    lines = [f"2024,N{at},{at}.5,2024-06-{day:02}T00:00:00Z" for at in range(count)]
    return "\n".join(["year,tailnum,x,event_timestamp", *lines, ""])


def test_the_first_snapshot_of_what_is_online_serves_when_the_primary_is_gone(
    world: Path, s3: S3Server, valkey: ValkeyServer, run: Run
) -> None:
    healthy = run("get", "plane:seats", "plane:note", "-e", "tailnum=N|41", "-e", "tailnum=N|7")
    assert ["N|41", "41", "old", "PRIMARY", "PRESENT"] in [line.split()[:5] for line in healthy.out.splitlines()]
    assert ["N|7", "null", "null", "PRIMARY", "NOT_FOUND", "-"] in [line.split() for line in healthy.out.splitlines()]

    published = run("snapshot", "publish", "plane", "--from", "primary", "--rows-per-s", "100000")
    assert published.code == 0
    assert f"published {ROWS - 1:,} rows of view 'plane' to standby: 20240601T000000.000000Z-" in published.out
    assert f"scanned primary: {ROWS - 1:,} rows (left out: 1 deleted)" in published.err

    verified = run("snapshot", "verify", "plane")
    assert verified.code == 0
    assert f"is whole: {ROWS - 1:,} rows" in verified.out

    valkey.kill()
    try:
        alone = json.loads(
            run(
                "get", "plane:seats", "plane:note", "plane:embedding", "-e", "tailnum=N|41", "--json", "--provenance"
            ).out
        )
        table = run("get", "plane:seats", "-e", "tailnum=N|41", "--provenance")
        scan = run("snapshot", "publish", "plane", "--from", "primary")
    finally:
        valkey.restart()
    assert (alone["seats"], alone["note"], alone["embedding"]) == ([41], ["old"], [[41.0, 0.5, 1.0, 2.0]])
    assert (alone["fc_origin_plane"], alone["fc_degraded"]) == (["SNAPSHOT"], [True])
    assert table.out.splitlines()[-1].split()[:5] == ["!", "N|41", "41", "SNAPSHOT", "PRESENT"]
    assert (scan.code, scan.out) == (1, "")
    assert "source 'primary'" in scan.err
    assert "Traceback" not in scan.err


@pytest.mark.parametrize("layout", ["hash", "json"])
def test_the_first_snapshot_of_rows_that_others_write(
    world: Path, s3: S3Server, valkey: ValkeyServer, run: Run, layout: str
) -> None:
    config = world / "featurechaos.yaml"
    config.write_text(config.read_text().replace("type: redis,", f"type: redis, layout: {layout},"))
    with Redis(port=valkey.port, protocol=2) as client:
        client.flushall()
        for at in range(500):
            row = {"seats": at, "embedding": f"[{at}, 0.5, 1, 2]", "event_timestamp": f"2024-06-01T00:{at % 60:02}:00Z"}
            if layout == "hash":
                client.hset(f"plane:N|{at}", mapping=row)
            else:
                client.set(f"plane:N|{at}", json.dumps(row | {"embedding": [at, 0.5, 1, 2]}))
        client.set("plane:broken", "x")
        # Without an event time it is dated by the walk, and so is the image.
        client.hset("plane:undated", mapping={"seats": 7}) if layout == "hash" else client.set("plane:undated", "{}")

    published = run("snapshot", "publish", "plane", "--from", "primary", "--rows-per-s", "100000")
    assert published.code == 0, published.err
    today = SystemClock().wall() // 86400
    assert "published 501 rows of view 'plane' to standby: " in published.out
    image = published.out.split("standby: ")[1][:8]
    assert (datetime.strptime(image, "%Y%m%d").replace(tzinfo=UTC).timestamp() // 86400) in (today, today - 1)
    assert "scanned primary: 501 rows (left out: 1 corrupt)" in published.err

    valkey.kill()
    try:
        alone = run("get", "plane:seats", "plane:embedding", "-e", "tailnum=N|41", "--json", "--provenance")
    finally:
        valkey.restart()
    told = json.loads(alone.out)
    assert (told["seats"], told["embedding"]) == ([41], [[41.0, 0.5, 1.0, 2.0]])
    assert told["fc_origin_plane"] == ["SNAPSHOT"]


def test_images_from_tables_are_listed_verified_and_removed(world: Path, s3: S3Server, run: Run) -> None:
    told = []
    for day in (1, 2, 3):
        (world / "pairs.csv").write_text(csv_of(10, day=day))
        told += json.loads(run("snapshot", "publish", "pair", "pairs.csv", "--json").out)
    ids = [one["snapshot"] for one in told]
    assert [one["rows"] for one in told] == [10, 10, 10]
    assert told[2]["as_of"] == "2024-06-03 00:00:00Z"

    listed = json.loads(run("snapshot", "list", "pair", "--json").out)
    assert [one["snapshot"] for one in listed] == ids[::-1]
    everything = run("snapshot", "list")
    assert [line.split()[1] for line in everything.out.splitlines()[2:]] == ids[::-1]
    assert everything.err == "view 'plane' has no image in standby\n"

    removed = run("snapshot", "gc", "pair", "--keep", "2")
    assert removed.out == f"removed {ids[0]}\n"
    assert "1 image of view 'pair' removed from standby" in removed.err
    assert [one["snapshot"] for one in json.loads(run("snapshot", "list", "--json").out)] == ids[:0:-1]

    assert run("snapshot", "verify", "pair", "--id", ids[1]).code == 0
    gone = run("snapshot", "verify", "pair", "--id", ids[0])
    assert (gone.code, gone.out) == (2, "")


def test_a_damaged_image_is_told_and_exits_1(world: Path, s3: S3Server, run: Run) -> None:
    (world / "pairs.csv").write_text(csv_of(10, day=1))
    run("snapshot", "publish", "pair", "pairs.csv")
    client = s3.client()
    parts = [one["Key"] for one in client.list_objects_v2(Bucket="features")["Contents"] if "part-" in one["Key"]]
    for part in parts:
        client.put_object(Bucket="features", Key=part, Body=b"something else")
    client.close()

    table, told = run("snapshot", "verify", "pair"), run("snapshot", "verify", "pair", "--json")

    assert (table.code, told.code) == (1, 1)
    assert "is damaged" in table.out
    assert json.loads(told.out)[0]["problems"] == ["part-00000.parquet was written again since"]


def test_what_may_not_be_published_leaves_what_serves(world: Path, run: Run) -> None:
    (world / "pairs.csv").write_text(csv_of(10, day=2))
    run("snapshot", "publish", "pair", "pairs.csv")
    (world / "pairs.csv").write_text(csv_of(3, day=3))

    small = run("snapshot", "publish", "pair", "pairs.csv")
    early = run("snapshot", "publish", "pair", "pairs.csv", "--as-of", "2024-06-02", "--allow-shrink")
    (world / "pairs.csv").write_text("year,tailnum,event_timestamp\n2024,N1,2024-06-03\n")
    narrow = run("snapshot", "publish", "pair", "pairs.csv")

    assert {small.code, early.code, narrow.code} == {2}
    assert "fewer than half of the 10" in small.err
    assert "--allow-shrink" in small.err
    assert "is before the newest event in the table" in early.err
    assert "the table has no x" in narrow.err
    assert len(json.loads(run("snapshot", "list", "pair", "--json").out)) == 1


def test_an_image_older_than_the_current_one_is_said_not_to_serve(world: Path, run: Run) -> None:
    (world / "pairs.csv").write_text(csv_of(10, day=3))
    run("snapshot", "publish", "pair", "pairs.csv")
    (world / "pairs.csv").write_text(csv_of(10, day=2))

    told = run("snapshot", "publish", "pair", "pairs.csv")

    assert told.code == 0
    assert "standby has a later image, of 2024-06-03 00:00:00Z, which serves on" in told.err


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ("publish plan --from primary", "there is no view 'plan', did you mean 'plane'?"),
        ("publish plane", "snapshot publish wants a FILE or --from SOURCE, got neither"),
        ("publish plane a.csv --from primary", "snapshot publish wants a FILE or --from SOURCE, got both"),
        ("publish plane a.csv", "there is no file 'a.csv'"),
        ("publish plane --from primry", "--from: there is no source 'primry', did you mean 'primary'?"),
        ("publish plane --from standby", "--from: source 'standby' cannot be scanned; wanted one of type redis"),
        ("publish plane --from primary --rows-per-s 0", "--rows-per-s wants more than 0, got 0"),
        ("publish plane --from primary --as-of soon", "--as-of wants a date such as 2024-06-01T05:00:00Z, got 'soon'"),
        ("list plan", "there is no view 'plan', did you mean 'plane'?"),
        ("list --source primary", "there is no snapshot source 'primary', known here: standby"),
        ("verify plane", "view 'plane' has no current image"),
        ("gc plan", "there is no view 'plan', did you mean 'plane'?"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments: str, wanted: str, world: Path, run: Run) -> None:
    ran = run("snapshot", *arguments.split())

    assert (ran.code, ran.out) == (2, "")
    assert wanted in ran.err


def test_an_empty_source_is_nothing_to_publish(world: Path, run: Run) -> None:
    ran = run("snapshot", "publish", "pair", "--from", "primary")

    assert (ran.code, ran.out) == (1, "")
    assert "source 'primary' holds no readable row of view 'pair': there is nothing to publish" in ran.err


def test_a_store_that_is_gone_is_a_sentence(world: Path, run: Run, s3: S3Server) -> None:
    text = (world / "featurechaos.yaml").read_text()
    (world / "gone.yaml").write_text(text.replace(s3.endpoint_url, "http://127.0.0.1:9"))

    ran = run("snapshot", "list", "--config", "gone.yaml")

    assert (ran.code, ran.out) == (1, "")
    assert "source 'standby'" in ran.err
    assert ran.err.count("\n") == 1
