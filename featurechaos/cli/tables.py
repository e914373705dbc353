"""Table files a person names: Parquet goes on by its path, CSV is read with the types its view declares."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from featurechaos.errors import RequestError
from featurechaos.model import DType, JoinKey, View

_SCALARS: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "bytes": pa.binary(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}


def arrow_type(dtype: DType) -> pa.DataType:
    """How a column of it is kept in Parquet."""
    scalar = _SCALARS[dtype.base]
    if dtype.is_list:
        return pa.list_(scalar)
    if dtype.dim is None:
        return scalar
    vector: pa.DataType = pa.list_(scalar, dtype.dim)
    return vector


def table_of(file: str, view: View) -> Any:
    """What `publish` takes for a file: a path of Parquet or an s3:// address as it is, CSV as a table.

    Raises RequestError where there is no such file, or it is not what its name says.
    """
    if file.startswith("s3://"):
        return file
    path = Path(file)
    if not path.exists():
        msg = f"there is no file {file!r}"
        raise RequestError(msg)
    if path.is_dir() or path.suffix.lower() in {".parquet", ".pq"}:
        return path
    if path.suffix.lower() == ".csv":
        return _csv(path, view)
    msg = f"{file!r} wants to end in .parquet or .csv"
    raise RequestError(msg)


def key_table(path: Path, keys: Iterable[JoinKey]) -> pa.Table:
    """The join keys of a Parquet or CSV file, CSV with the keys' types; RequestError if it is neither."""
    types = {key.column: arrow_type(key.dtype) for key in keys}
    try:
        if path.suffix.lower() != ".csv":
            found = [name for name in pq.read_schema(path).names if name in types]
            return pq.read_table(path, columns=found)
        kept = {name: kind for name, kind in types.items() if not pa.types.is_timestamp(kind)}
        table = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=kept))
    except OSError as error:
        msg = f"{str(path)!r} cannot be read: {error.strerror or error}"
        raise RequestError(msg) from None
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        msg = f"{path.name} is not a table of entities: {error}"
        raise RequestError(msg) from None
    return table.select([name for name in table.column_names if name in types])


def _csv(path: Path, view: View) -> pa.Table:
    """A CSV file as a table. An empty cell is null; NA and null are null in numbers, and words in text."""
    named = {key.name: key.dtype for key in view.join_keys} | {one.name: one.dtype for one in view.features}
    # Times are left to be found out: with and without a zone they are of two types.
    types = {
        name: _SCALARS[dtype.name] for name, dtype in named.items() if dtype.name in _SCALARS.keys() - {"timestamp"}
    }
    try:
        table = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=types))
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        msg = f"{path.name} is not a CSV table of view {view.name!r}: {error}"
        raise RequestError(msg) from None
    for at, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_binary(field.type):
            table = table.set_column(at, field, _without_empty(table.column(at)))
    return table


def _without_empty(text: Any) -> Any:
    is_empty = pc.equal(pc.binary_length(text), pa.scalar(0))
    return pc.if_else(is_empty, pa.scalar(None, text.type), text)
