"""`bench` as it is typed: what is refused, what it prints, where its entities come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurechaos.bench.figures import Figures
from featurechaos.cli.sampling import pool_of
from featurechaos.cli.strips import strip
from featurechaos.config import load
from featurechaos.errors import RequestError
from tests.bench.stories import Story
from tests.cli.conftest import Run, start

FAST = ("--for-s", "0.5", "--rate", "40", "--batch", "2", "--no-cold")
ROWS = [{"airport": "JFK", "tailnum": "N1"}, {"airport": "LGA", "tailnum": "N2"}]


@pytest.fixture
def armed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with faults allowed and two entities in a file."""
    text = (folder / "featurechaos.yaml").read_text()
    (folder / "armed.yaml").write_text(f"{text}chaos: {{enabled: true}}\n")
    (folder / "rows.json").write_text(json.dumps(ROWS))
    monkeypatch.setenv("FEATURECHAOS_CHAOS", "armed")
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("bench --rate 0", "--rate wants 0.1 to 100000, got 0"),
        ("bench --batch 0", "--batch wants 1 to 100000, got 0"),
        ("bench --for-s 0.1", "--for-s wants 0.5 to 3600, got 0.1"),
        ("bench --may-lose 2", "--may-lose wants 0 to 1, got 2"),
        ("bench --features service:delay", "--features: there is no service 'delay', did you mean 'delay_model'?"),
        ("bench -f plan:seats", "--features: 'plan:seats': there is no view 'plan', did you mean 'plane'?"),
        ("bench -f plane:seat", "--features: 'plane:seat': wanted one of seats"),
        ("bench --fault outage", "--fault wants outage:SOURCE, hang:SOURCE or delay:SOURCE:50ms, got 'outage'"),
        ("bench --fault outage:primary", "featurechaos.yaml: chaos.enabled: wanted true to inject faults, got false"),
        ("bench --pid primary=x", "--pid wants SOURCE=PID, got 'primary=x'"),
        ("bench -c armed.yaml --pid primary=1 --signal hup", "--signal wants stop or kill, got 'hup'"),
        ("bench --report taken", "--report: taken takes no files: File exists"),
        (
            "bench",
            "there is no entity of view 'airport_hourly' to ask about (primary cannot be listed): name some with",
        ),
        ("bench --entities nope.json", "--entities: 'nope.json' cannot be read: No such file or directory"),
        ("bench --entities nope.parquet", "'nope.parquet' cannot be read"),
        ("bench --entities rows.txt", "--entities: 'rows.txt' wants to end in .parquet, .csv or .json"),
        ("bench --entities half.json", "wants the columns airport, tailnum; it has no tailnum"),
        ("bench --entities none.json", "--entities: none.json wants the columns airport, tailnum"),
        ("bench --config nope.yaml", "nope.yaml"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments: str, said: str, armed: Path, run: Run) -> None:
    (armed / "taken").touch()
    (armed / "half.json").write_text('[{"airport": "JFK"}]')
    (armed / "none.json").write_text("[]")

    ran = run(*arguments.split())

    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert "Traceback" not in ran.err


def test_without_arms_nothing_is_broken(armed: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEATURECHAOS_CHAOS")

    ran = run("bench", "-c", "armed.yaml", "--fault", "outage:primary", "--entities", "rows.json")

    assert ran.code == 2
    assert "FEATURECHAOS_CHAOS: wanted 'armed' in the environment" in ran.err


def test_a_bench_with_nothing_broken_is_a_table_and_a_verdict(armed: Path, run: Run) -> None:
    ran = run("bench", "--entities", "rows.json", "--report", "out", *FAST)

    lines = ran.out.splitlines()
    assert ran.code == 6, "nothing is stored, and on_missing says default"
    assert lines[0].startswith("INCONCLUSIVE: 100 % of rows had no stored value with nothing broken")
    assert lines[2].startswith("Warm: every answer within ")
    table = [
        line.split() for line in lines[lines.index(next(line for line in lines if "rows" in line and "p50" in line)) :]
    ]
    assert table[0] == ["rows", "share", "p50", "p90", "max"], "what no phase has is left out"
    assert [line[0] for line in table[2:5]] == ["warm", "NONE", "DEFAULT"]
    assert any(line.startswith("latency ") for line in lines)
    assert any(line.startswith("origin  N") for line in lines)
    assert lines[-1] == "report: out/report.html"
    assert {path.name for path in (armed / "out").iterdir()} == {"report.html", "bench.json", "history.jsonl"}


def test_what_was_broken_is_named_above_the_strip_where_there_is_room() -> None:
    figures = Figures.of(Story().record())
    slices = figures.as_dict()["timeline"]

    heads = [next(strip(slices[::step], figures)).plain.split() for step in (1, 2)]

    assert heads == [["before", "primary", "frozen", "after"], ["before", "during", "after"]]


@pytest.mark.slow
def test_json_is_all_that_is_on_stdout(armed: Path) -> None:
    arguments = (
        "bench",
        "-c",
        "armed.yaml",
        "--entities",
        "rows.json",
        "--fault",
        "delay:primary:5ms",
        "--json",
        *FAST,
    )
    with start(*arguments, folder=armed) as process:
        out, err = process.communicate()

    told = json.loads(out)
    assert process.returncode == told["exit_code"] == 6, err
    assert list(told["phases"]) == ["before", "during", "after"]
    assert told["phases"]["during"]["spread"]["p50_s"] > 0.005
    assert told["broken"] == [
        {
            "source": "primary",
            "state": "5 ms slower",
            "origin": "PRIMARY",
            "fault": "delay",
            "detail": "injected: answers come 5 ms late",
        }
    ]
    assert told["applied"] > 0
    assert told["report"] is None
    assert not (armed / "reports").exists()
    assert "before: as it is" in err
    assert "Traceback" not in err


VIEWS = """
project: t
sources: {primary: {type: memory}}
views:
  - {name: stay, join_keys: {user: int64, day: timestamp}, features: {x: {dtype: float32}}}
  - {name: plane, join_keys: {tailnum: string}, features: {seats: {dtype: int32}}}
"""


def test_entities_are_read_from_parquet_csv_and_json_alike(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(VIEWS)
    settings = load(tmp_path / "c.yaml")
    columns: dict[str, Any] = {
        "user": [1, 2],
        "day": ["2024-06-01T00:00:00Z", "2024-06-02T00:00:00Z"],
        "tailnum": ["N1", "007"],
    }
    (tmp_path / "rows.json").write_text(json.dumps(columns))
    (tmp_path / "rows.csv").write_text(
        "user,day,tailnum,other\n1,2024-06-01T00:00:00Z,N1,9\n2,2024-06-02T00:00:00Z,007,9\n"
    )
    days: Any = pa.array(columns["day"], pa.string())
    table = pa.table({**columns, "day": days.cast(pa.timestamp("us", tz="UTC")), "other": [9, 9]})
    pq.write_table(table, tmp_path / "rows.parquet")

    pools = [pool_of(settings, ["stay", "plane"], tmp_path / f"rows.{kind}") for kind in ("json", "csv", "parquet")]

    for pool in pools:
        (group,) = pool.groups
        assert list(group["user"]) == [1, 2]
        assert list(group["tailnum"]) == ["N1", "007"]
        assert [str(each) for each in group["day"]] == ["2024-06-01T00:00:00.000000", "2024-06-02T00:00:00.000000"]
    assert pools[0].whence == "2 of rows.json"


def test_a_file_that_is_no_table_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(VIEWS)
    (tmp_path / "rows.parquet").write_text("no")
    (tmp_path / "rows.csv").write_text("user,day,tailnum\nx,2024-06-01,N1\n")
    settings = load(tmp_path / "c.yaml")

    for name in ("rows.parquet", "rows.csv"):
        with pytest.raises(RequestError, match="is not a table of entities"):
            pool_of(settings, ["stay", "plane"], tmp_path / name)
