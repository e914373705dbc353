"""Tables a person may hand us, and the columns a view wants: checked, cast, and given to the codec.

Everything here goes by batches of bounded size. Needs pyarrow; never imported by a process that only reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from featurechaos.codec import Layout
from featurechaos.errors import RequestError
from featurechaos.model import NO_TIME_US, DType

EVENT_TIME = "event_timestamp"

Column = Any
"""A pyarrow array; its stubs know too few of the methods of each kind."""

_MOST_BATCH_ROWS, _LEAST_BATCH_ROWS = 16_384, 256
_BATCH_BYTES = 8 << 20
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
    """How a feature is kept in Parquet."""
    scalar = _SCALARS[dtype.base]
    if dtype.is_list:
        return pa.list_(scalar)
    if dtype.dim is None:
        return scalar
    vector: pa.DataType = pa.list_(scalar, dtype.dim)
    return vector


def batch_rows(layout: Layout) -> int:
    """How many rows of a layout make a batch of at most 8 MB."""
    rows = _BATCH_BYTES // (8 * layout.words)
    return max(_LEAST_BATCH_ROWS, min(_MOST_BATCH_ROWS, rows))


@dataclass(frozen=True)
class Source:
    """A table in memory, or Parquet files on disk, read by column and batch."""

    schema: pa.Schema
    table: pa.Table | None = None
    files: tuple[Path, ...] = ()

    @property
    def rows(self) -> int:
        if self.table is not None:
            return int(self.table.num_rows)
        return sum(int(pq.read_metadata(path).num_rows) for path in self.files)

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """The named columns in row order, at most `rows` at a time."""
        if self.table is not None:
            yield from self.table.select(list(columns)).to_batches(max_chunksize=rows)
        for path in self.files:
            # Threads would hold several row groups decoded at once.
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    yield from file.iter_batches(rows, [group], list(columns), use_threads=False)


def source_of(table: Any, place: str) -> Source:
    """What a caller gave as a table: pyarrow, pandas, a dict of columns, or a path of Parquet.

    Raises RequestError in one sentence on anything else.
    """
    if isinstance(table, str | Path):
        return _files(Path(table), place)
    try:
        made = _table(table)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError) as error:
        msg = f"{place}: the table can't be read as columns of one length and type each: {str(error)[:200]}"
        raise RequestError(msg) from error
    if made is None:
        wanted = "a pyarrow table, a pandas frame, a dict of columns or a Parquet path"
        msg = f"{place} wants {wanted}, got {type(table).__name__}"
        raise RequestError(msg)
    return Source(made.schema, made)


def _table(table: Any) -> pa.Table | None:
    if isinstance(table, pa.Table):
        return table
    if isinstance(table, pa.RecordBatch):
        return pa.Table.from_batches([table])
    if isinstance(table, Mapping):
        return pa.table({name: _array(values) for name, values in table.items()})
    if type(table).__module__.startswith("pandas"):
        return pa.Table.from_pandas(table, preserve_index=False)
    return None


def _array(values: Any) -> Any:
    if isinstance(values, np.ndarray) and values.ndim == 2:
        flat = pa.array(np.ascontiguousarray(values).ravel())
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, from_pandas=True)


def _files(path: Path, place: str) -> Source:
    files = tuple(sorted(path.glob("*.parquet"))) if path.is_dir() else (path,)
    if not files or not files[0].is_file():
        msg = f"{place} wants a Parquet file or a folder of them, {str(path)!r} is neither"
        raise RequestError(msg)
    try:
        schemas = [pq.read_schema(file) for file in files]
    except (pa.ArrowInvalid, OSError) as error:
        msg = f"{place}: {str(path)!r} is not Parquet: {str(error)[:200]}"
        raise RequestError(msg) from error
    for file, schema in zip(files, schemas, strict=True):
        if missing := set(schemas[0].names) - set(schema.names):
            msg = f"{place}: {file.name} has no column {min(missing)!r}, {files[0].name} has"
            raise RequestError(msg)
    return Source(schemas[0], None, files)


def fitted(column: Column, dtype: DType, place: str) -> Column:
    """A column as the type a view declares, or RequestError naming the place, what was wanted and what came.

    Numbers become other numbers where no value changes (floats may be rounded to float32), naive times are
    UTC; text only comes from text.
    """
    wanted = arrow_type(dtype)
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    if column.type == wanted or pa.types.is_null(column.type):
        return column.cast(wanted)
    if not _may_become(column.type, wanted):
        msg = f"{place} wants {dtype}, got {column.type}"
        raise RequestError(msg)
    try:
        return column.cast(wanted, safe=dtype.base != "timestamp")
    except pa.ArrowInvalid as error:
        msg = f"{place} wants {dtype}, got {column.type} with a value that does not fit: {str(error)[:120]}"
        raise RequestError(msg) from error


def _may_become(given: Any, wanted: Any) -> bool:
    kinds = pa.types
    if kinds.is_list(wanted) or kinds.is_fixed_size_list(wanted):
        is_list = kinds.is_list(given) or kinds.is_large_list(given) or kinds.is_fixed_size_list(given)
        return is_list and (given.value_type == wanted.value_type or _may_become(given.value_type, wanted.value_type))
    if kinds.is_integer(wanted) or kinds.is_floating(wanted):
        return kinds.is_integer(given) or kinds.is_floating(given)
    if kinds.is_string(wanted):
        return kinds.is_string(given) or kinds.is_large_string(given) or str(given) == "string_view"
    if kinds.is_binary(wanted):
        return kinds.is_large_binary(given) or kinds.is_fixed_size_binary(given) or str(given) == "binary_view"
    return kinds.is_timestamp(wanted) and kinds.is_timestamp(given)


def plain(column: Column, dtype: DType) -> NDArray[Any] | list[Any]:
    """A fitted column as the codec takes it: numpy (masked where null) for fixed types, else a list."""
    if not dtype.is_fixed:
        return list(column.to_pylist())
    if dtype.dim:
        return _vectors(column, dtype)
    if dtype.base == "timestamp":
        times = _numbers(column.cast(pa.int64()).fill_null(NO_TIME_US))
        return times.view("M8[us]")
    if not column.null_count:
        return _numbers(column)
    filled = _numbers(column.fill_null(pa.scalar(0).cast(column.type)))
    return np.ma.MaskedArray(filled, mask=_numbers(column.is_null()))


def _numbers(column: Column) -> NDArray[Any]:
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _vectors(column: Column, dtype: DType) -> NDArray[Any]:
    dim = dtype.dim or 0
    # `flatten` would leave the null vectors out.
    flat = column.values.slice(column.offset * dim, len(column) * dim)
    if flat.null_count and dtype.base.startswith("float"):
        flat = flat.fill_null(float("nan"))
    matrix = _numbers(flat.fill_null(0)).reshape(-1, dim)
    if not column.null_count:
        return matrix
    gaps = _numbers(column.is_null())
    return np.ma.MaskedArray(matrix, mask=np.repeat(gaps[:, None], dim, axis=1))


def has_holes(column: Column, dtype: DType) -> bool:
    """Whether an integer vector has a null inside: there is nothing it could be kept as."""
    if not dtype.dim or not dtype.base.startswith("int"):
        return False
    return bool(column.flatten().null_count)


def times_us(column: Column, place: str) -> NDArray[np.int64]:
    """Event times as int64 us; RequestError where one is null."""
    fixed = fitted(column, DType.parse("timestamp"), place)
    if fixed.null_count:
        row = pc.index(fixed.is_null(), pa.scalar(value=True)).as_py()
        msg = f"{place} wants a time in every row, row {row} of its batch has none"
        raise RequestError(msg)
    return _numbers(fixed.cast(pa.int64()))
