"""What people install: the wheel holds what it should, and an empty environment can read with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from featurechaos.demo.servers import S3Server, ValkeyServer

PACKAGES = ("featurechaos", "featurechaos_redis", "featurechaos_s3")

READ_THROUGH_BOTH = """
import datetime, json, os
import featurechaos, featurechaos_redis, featurechaos_s3
from featurechaos import FeatureClient, Origin

def client(primary_url):
    return FeatureClient.from_config({
        "project": "wheel",
        "sources": {
            "primary": {"type": "redis", "url": primary_url},
            "standby": {"type": "s3", "url": "s3://features/wheel", "endpoint_url": os.environ["S3_URL"]},
        },
        "views": [{"name": "plane", "join_keys": {"tailnum": "string"}, "features": {"seats": {"dtype": "int32"}}}],
        "policy": {"deadline_s": 0.5, "last_known": None},
    })

def told(client):
    response = client.get_online_features(["plane:seats"], [{"tailnum": "N1"}, {"tailnum": "N2"}], deadline_s=5.0)
    origins = [Origin(number).name for number in response.provenance("plane").origin]
    return {"seats": response.to_dict()["seats"], "origins": origins}

table = {"tailnum": ["N1", "N2"], "seats": [150, 2], "event_timestamp": [datetime.datetime.now(datetime.UTC)] * 2}
with client(os.environ["VALKEY_URL"]) as healthy:
    healthy.write_to_online_store("plane", table)
    healthy.publish_snapshot("plane", table)
    online = told(healthy)
with client("redis://127.0.0.1:1/0") as alone:
    alone.refresh(30)
    offline = told(alone)
files = [module.__file__ for module in (featurechaos, featurechaos_redis, featurechaos_s3)]
print(json.dumps({"files": files, "online": online, "offline": offline}))
"""


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, root],
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def empty_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment in which the wheel is installed, and third parties are those of this one.

    A path file lends their folder without running the path files in it, so an editable install of ours stays out.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True, capture_output=True)
    (own,) = (folder / "lib").glob("python*/site-packages")
    (own / "third_parties.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_holds_three_typed_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}

    assert tops == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)


def test_the_wheel_holds_every_file_of_ours(root: Path, wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    folders = [root / "featurechaos", *(root / "adapters").iterdir()]
    ours = {
        path.relative_to(folder.parent).as_posix()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert ours - names == set()


def test_all_is_every_extra_but_those_of_developers(root: Path, wheel: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    (all_of,) = project["optional-dependencies"]["all"]
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    extras = set(message_from_bytes(archive.read(metadata)).get_all("Provides-Extra", []))

    assert set(all_of.removeprefix("featurechaos[").removesuffix("]").split(",")) == extras - {"all", "bench", "dev"}


@pytest.mark.live
def test_an_empty_environment_reads_through_both_adapters(empty_environment: Path, tmp_path: Path) -> None:
    with ValkeyServer() as valkey, S3Server(buckets=("features",)) as s3:
        world = {"VALKEY_URL": valkey.url, "S3_URL": s3.endpoint_url, "XDG_CACHE_HOME": str(tmp_path)}
        told = output_of(empty_environment, READ_THROUGH_BOTH, os.environ | s3.credentials() | world, tmp_path)

    assert told["online"] == {"seats": [150, 2], "origins": ["PRIMARY", "PRIMARY"]}
    assert told["offline"] == {"seats": [150, 2], "origins": ["SNAPSHOT", "SNAPSHOT"]}
    assert [Path(file).is_relative_to(empty_environment) for file in told["files"]] == [True] * len(PACKAGES)


def output_of(environment: Path, code: str, variables: dict[str, str], folder: Path) -> dict[str, Any]:
    """Run code in an environment; -P, the foreign folder and no PYTHONPATH keep the repository off its path."""
    done = subprocess.run(
        [environment / "bin" / "python", "-P", "-c", code],
        cwd=folder,
        env={name: value for name, value in variables.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))
