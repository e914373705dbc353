"""What a person or a script sees: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from featurechaos.model import NO_TIME_US

_PIPE_WIDTH = 160
_MOST_ELEMENTS = 3
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def say(text: str) -> None:
    """One line to the person: on stderr, never cut."""
    sys.stderr.write(f"{' '.join(text.split())}\n")
    sys.stderr.flush()


def put(*lines: str) -> None:
    """Lines of a result."""
    sys.stdout.writelines(f"{line}\n" for line in lines)


def put_json(value: Any) -> None:
    """A result for a script: strict JSON, whatever is in it."""
    is_unicode = (sys.stdout.encoding or "ascii").lower().startswith("utf")
    text = json.dumps(jsonable(value), indent=2, ensure_ascii=not is_unicode, allow_nan=False)
    put(text)


def jsonable(value: Any) -> Any:
    """A value in JSON's own terms: NaN is null, infinities and dates are text, bytes are UTF-8 with backslashes."""
    if isinstance(value, dict):
        return {str(key): jsonable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [jsonable(each) for each in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def stdout() -> Console:
    """Where tables go. Into a pipe they are wide: what reads them there does not wrap."""
    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in console._environ:  # noqa: SLF001 - it has no public form
        console.width = _PIPE_WIDTH
    return console


def put_table(header: Sequence[str], rows: Sequence[Sequence[Text | str]], *, title: str = "") -> None:
    """Rows under a header; one too wide for the screen goes as a list of fields for each row instead."""
    console = stdout()
    table = _table(header, rows)
    if title:
        console.print(Text(title, style="bold cyan"))
    if not rows or _widest(console, table) <= console.width:
        console.print(table)
        return
    for number, row in enumerate(rows, 1):
        if len(rows) > 1:
            console.print(Text(f"row {number}", style="dim"))
        console.print(_fields(header, row))


def put_wrapped(header: Sequence[str], rows: Sequence[Sequence[Text | str]]) -> None:
    """Rows of prose under a header; long cells wrap."""
    stdout().print(_table(header, rows))


def _widest(console: Console, table: Table) -> int:
    return console.measure(table, options=console.options.update(width=10_000)).maximum


def _table(header: Sequence[str], rows: Sequence[Sequence[Text | str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _fields(header: Sequence[str], row: Sequence[Text | str]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", overflow="fold")
    table.add_column(overflow="fold")
    for name, cell in zip(header, row, strict=True):
        if str(cell):
            table.add_row(name or "mark", cell)
    return table


def shown(value: Any, *, is_null: bool = False) -> Text:
    """One value in a table: short, on one line, and nothing in it that a terminal would obey."""
    if is_null or value is None:
        return Text("null", style="dim")
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        inside = [str(shown(each)) for each in value[:_MOST_ELEMENTS]]
        rest = f", ... {len(value)} values" if len(value) > _MOST_ELEMENTS else ""
        return Text(f"[{', '.join(inside)}{rest}]")
    if isinstance(value, np.datetime64):
        return Text(instant(int(value.astype("M8[us]").astype(np.int64))))
    if isinstance(value, (float, np.floating)):
        return Text(f"{value:.6g}")
    text = repr(value) if isinstance(value, bytes) else str(value)
    return Text(text if text.isprintable() and text == text.strip() and text else repr(text))


def age(seconds: float) -> str:
    """An age in the two largest of its units: `3 h 12 min`; `-` where there is none."""
    if math.isnan(seconds):
        return "-"
    for (size_s, name), (next_s, next_name) in pairwise(_UNITS):
        if seconds >= size_s:
            rest = int(seconds % size_s // next_s)
            return f"{int(seconds // size_s)} {name}" + (f" {rest} {next_name}" if rest else "")
    return f"{seconds:.3g} s"


def instant(time_us: int) -> str:
    """A date for people: 2013-09-01 05:00:00Z; `-` where there is none."""
    if time_us == NO_TIME_US:
        return "-"
    try:
        when = _EPOCH + timedelta(microseconds=time_us)
    except OverflowError:
        return f"{time_us} us"
    spec = "milliseconds" if when.microsecond else "seconds"
    return when.isoformat(sep=" ", timespec=spec).replace("+00:00", "Z")


def size(count: int) -> str:
    """Bytes in words."""
    for unit, limit in (("bytes", 1 << 10), ("KiB", 1 << 20), ("MiB", 1 << 30)):
        if count < limit:
            return f"{count} bytes" if unit == "bytes" else f"{count * 1024 / limit:.1f} {unit}"
    return f"{count / (1 << 30):.1f} GiB"


def examples(*lines: str) -> str:
    """The end of a command's help. Each is a paragraph: typer joins the lines of one."""
    return "\n\n".join(["Examples:", *lines])
