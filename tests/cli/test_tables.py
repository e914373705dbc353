"""Table files as people have them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from featurechaos.cli.tables import table_of
from featurechaos.errors import RequestError
from featurechaos.model import DType, Feature, JoinKey, View

FEATURES = {"seats": "int32", "code": "string", "rate": "float64", "built": "timestamp", "is_old": "bool"}
PLANE = View(
    "flights",
    "plane",
    "plane",
    (JoinKey("tailnum", DType.parse("string"), "tailnum"),),
    tuple(Feature(name, DType.parse(kind)) for name, kind in FEATURES.items()),
)
HEAD = "tailnum,seats,code,rate,built,is_old,event_timestamp\n"


def written(folder: Path, text: str) -> str:
    path = folder / "planes.csv"
    path.write_text(text)
    return str(path)


def test_a_csv_is_read_with_the_types_of_its_view(tmp_path: Path) -> None:
    row = "007,12,1e3,0.5,2001-02-03,true,2024-06-01T00:00:00Z\n"

    table = table_of(written(tmp_path, HEAD + row), PLANE).to_pydict()

    assert table["tailnum"] == ["007"]
    assert table["seats"] == [12]
    assert table["code"] == ["1e3"]
    assert table["is_old"] == [True]
    assert table["event_timestamp"] == [datetime(2024, 6, 1, tzinfo=UTC)]


def test_an_empty_cell_is_null_and_na_is_a_word_in_text(tmp_path: Path) -> None:
    rows = "N1,NA,NA,NA,,,2024-06-01T00:00:00Z\nN2,,,,2001-02-03,false,2024-06-01T00:00:00Z\n"

    table = table_of(written(tmp_path, HEAD + rows), PLANE).to_pydict()

    assert table["seats"] == table["rate"] == [None, None]
    assert table["code"] == ["NA", None]
    assert table["built"][0] is None


def test_parquet_and_addresses_go_on_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "planes.parquet").touch()

    assert table_of(str(tmp_path / "planes.parquet"), PLANE) == tmp_path / "planes.parquet"
    assert table_of(str(tmp_path), PLANE) == tmp_path
    assert table_of("s3://bucket/planes/", PLANE) == "s3://bucket/planes/"


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("nope.csv", None, "there is no file"),
        ("planes.xlsx", "x", "wants to end in .parquet or .csv"),
        ("planes.csv", HEAD + "N1,twelve,a,0.5,,,2024-06-01\n", "planes.csv is not a CSV table of view 'plane': "),
        ("planes.csv", HEAD + "N1,12\n", "planes.csv is not a CSV table of view 'plane': "),
        ("planes.csv", "", "planes.csv is not a CSV table of view 'plane': "),
    ],
)
def test_a_wrong_file_is_told_in_a_sentence(name: str, text: str | None, wanted: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)

    with pytest.raises(RequestError, match=wanted):
        table_of(str(tmp_path / name), PLANE)
