"""`get`, `explain` and `config` over a config that needs no server."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from featurechaos.config import load
from tests.cli.conftest import Run


def test_a_table_says_value_origin_status_and_age_of_each_view(folder: Path, run: Run) -> None:
    ran = run("get", "service:delay_model", "-e", "airport=JFK", "-e", "tailnum=N1", "-e", "tailnum=N2")

    lines = [line.split() for line in ran.out.splitlines()]
    assert ran.code == 0
    assert ["airport_hourly"] in lines
    assert ["airport", "dep_delay_mean_2h", "origin", "status", "age"] in lines
    assert lines.count(["JFK", "4.5", "DEFAULT", "NOT_FOUND", "-"]) == 2
    assert ["N2", "null", "NONE", "NOT_FOUND", "-"] in lines
    assert "2 rows, none degraded" in ran.err


def test_provenance_and_timestamps_are_columns_of_their_own(folder: Path, run: Run) -> None:
    ran = run("get", "plane:seats", "-e", "tailnum=N1", "--provenance", "--timestamps")

    assert "tailnum  seats  origin  status     age  cause    fault  event time" in " ".join(ran.out.split(" "))
    assert "MISSING  no     -" in ran.out


def test_a_degraded_row_is_marked(folder: Path, run: Run) -> None:
    ran = run("get", "plane:seats", "-e", "tailnum=N1", "--deadline", "0")

    assert ran.out.splitlines()[-1].split() == ["!", "N1", "null", "NONE", "UNAVAILABLE", "-"]
    assert "1 row, 1 degraded (marked !)" in ran.err


def test_json_is_feasts_shape_and_the_request_id(folder: Path, run: Run) -> None:
    ran = run(
        "get", "plane:seats", "airport_hourly:dep_delay_mean_2h", "-e", "tailnum=N1", "-e", "airport=JFK", "--json"
    )

    told = json.loads(ran.out)
    assert len(told.pop("request_id")) == 32
    assert told == {"tailnum": ["N1"], "airport": ["JFK"], "seats": [None], "dep_delay_mean_2h": [4.5]}
    assert ran.err == ""


def test_json_with_everything_is_strict(folder: Path, run: Run) -> None:
    ran = run("get", "plane:seats", "-e", "tailnum=N1", "--json", "--provenance", "--timestamps", "--full-names")

    told = json.loads(ran.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert told["plane__seats"] == [None]
    assert told["plane__seats__ts"] == [0]
    assert told["fc_origin_plane"] == ["NONE"]
    assert told["fc_age_s_plane"] == [None]


def test_rows_come_from_a_file_and_from_stdin(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = b'[{"tailnum": "N1"}, {"tailnum": null}]'
    (folder / "rows.json").write_bytes(rows)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(rows)))

    from_file = json.loads(run("get", "plane:seats", "--rows", "rows.json", "--json").out)
    from_stdin = json.loads(run("get", "plane:seats", "--rows", "-", "--json").out)

    assert from_file["tailnum"] == from_stdin["tailnum"] == ["N1", None]


def test_a_wide_table_becomes_a_list_of_fields(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")

    ran = run("get", "plane:seats", "-e", "tailnum=N1", "-e", "tailnum=N2", "--provenance")

    lines = [line.split() for line in ran.out.splitlines()]
    assert lines[:3] == [["plane"], ["row", "1"], ["tailnum", "N1"]]
    assert ["row", "2"] in lines
    assert max(map(len, ran.out.splitlines())) <= 40


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ("get plan:seats -e tailnum=N1", "there is no view 'plan'; the config has airport_hourly, plane, dest"),
        ("get plane:seat -e tailnum=N1", "view 'plane' has no feature 'seat'; it has seats"),
        ("get plane -e tailnum=N1", "features wants 'view:feature', got 'plane'"),
        ("get service:nope -e tailnum=N1", "got 'service:nope' and the config has service:delay_model"),
        ("get plane:seats -e tailnm=N1", "view 'plane' wants the join key 'tailnum'; no --entity or row gives it"),
        ("get plane:seats -e tailnum", "--entity wants KEY=VALUE, got 'tailnum'"),
        ("get plane:seats", "get wants --entity KEY=VALUE or --rows FILE, got neither"),
        ("get plane:seats -e a=b --rows x", "get wants --entity KEY=VALUE or --rows FILE, got both"),
        ("get plane:seats --rows nope.json", "--rows: 'nope.json' cannot be read: No such file or directory"),
        ("get plane:seats --rows featurechaos.yaml", "--rows: featurechaos.yaml is not JSON"),
        ("get plane:seats --rows number.json", "--rows: number.json wants a list of entity rows"),
        (
            "get dest:embedding airport_hourly:embedding -e airport=JFK -e dest_airport=JFK",
            "share the name 'embedding'; add --full-names",
        ),
        ("get plane:seats -e tailnum=N1 --config nope.yaml", "nope.yaml: cannot be read from 'nope.yaml'"),
        ("get plane:seats -e tailnum=N1 --config broken.yaml", "broken.yaml: line 2: "),
        ("explain --config wrong.yaml", "wrong.yaml: projct: is not a known key, did you mean 'project'?"),
        ("config show --config wrong.yaml", "wrong.yaml: projct: "),
        ("snapshot list", "no source keeps snapshots: add one of type s3"),
        ("snapshot publish plane x.csv", "no source keeps snapshots: add one of type s3"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments: str, wanted: str, folder: Path, run: Run) -> None:
    (folder / "broken.yaml").write_text("project: x\n  views: [\n")
    (folder / "wrong.yaml").write_text("projct: x\nsources: {a: {type: memory}}\nviews: []\n")
    (folder / "number.json").write_text("7")

    ran = run(*arguments.split())

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("featurechaos: ")
    assert wanted in ran.err
    assert ran.err.count("\n") == 1


def test_without_a_config_it_says_how_to_name_one(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    ran = run("explain")

    assert ran.code == 2
    assert ran.err == "featurechaos: there is no featurechaos.yaml in this folder: name a config with --config FILE\n"


def test_exhausted_rows_are_shown_and_told(folder: Path, run: Run) -> None:
    text = (folder / "featurechaos.yaml").read_text()
    (folder / "strict.yaml").write_text(text.replace("on_missing: default", "on_exhausted: raise"))

    ran = run("get", "plane:seats", "-e", "tailnum=N1", "--deadline", "0", "--config", "strict.yaml")

    assert ran.code == 1
    assert "UNAVAILABLE" in ran.out
    assert "featurechaos: no source could serve view 'plane': 1 of 1 rows: no_time" in ran.err


def test_explain_says_what_a_read_may_cost(folder: Path, run: Run) -> None:
    table, told = run("explain"), json.loads(run("explain", "--json").out)

    assert told["plane"]["worst_case_calls"] == 2
    assert ["plane", "primary", "2", "1.1x", "32", "ms", "50", "ms"] in [
        line.split() for line in table.out.splitlines()
    ]


def test_what_is_shown_loads_to_the_same_settings(folder: Path, run: Run) -> None:
    shown = yaml.safe_load(run("config", "show").out)

    assert load(shown).dump() == load(folder / "featurechaos.yaml").dump()
    assert json.loads(run("config", "show", "--json").out) == shown


def test_the_schema_is_json_and_knows_the_stores(run: Run) -> None:
    told = json.loads(run("config", "schema").out)

    assert "MemorySpec" in told["$defs"]


OFFLINE = """
import sys
sys.addaudithook(lambda name, args: sys.exit(f'asked for the network: {args}') if name == 'socket.connect' else None)
from featurechaos.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("arguments", ["--help", "config show", "config schema", "explain", "drill list"])
def test_what_only_reads_files_asks_no_network(arguments: str, folder: Path) -> None:
    (folder / "featurechaos.yaml").write_text(
        (folder / "featurechaos.yaml")
        .read_text()
        .replace("{type: memory}", '{type: redis, url: "redis://127.0.0.1:1"}')
    )

    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, *arguments.split()], cwd=folder, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
