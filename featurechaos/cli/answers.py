"""A response as a person reads it: a table for each view."""

from __future__ import annotations

from rich.text import Text

from featurechaos.cli.output import age, instant, put, put_table, say, shown
from featurechaos.model import Cause, Origin, Status
from featurechaos.response import Response

MARK = "!"


def put_response(response: Response, *, full_names: bool, provenance: bool, timestamps: bool) -> None:
    for number, view in enumerate(response.views):
        if number:
            put("")
        header, rows = _table(response, view, full_names=full_names, provenance=provenance, timestamps=timestamps)
        put_table(header, rows, title=view)
    degraded = int(response.degraded.sum())
    marked = f", {degraded} degraded (marked {MARK})" if degraded else ", none degraded"
    count = f"{len(response)} row{'s' * (len(response) != 1)}"
    say(f"request {response.request_id}: {count}{marked}, in {response.elapsed_s * 1000:.1f} ms")


def _table(
    response: Response, name: str, *, full_names: bool, provenance: bool, timestamps: bool
) -> tuple[list[str], list[list[Text]]]:
    """One view's rows as a person reads them: keys, values, then the truth about the row."""
    answer, truth = response.answers[name], response.provenance(name)
    keys = [key.column for key in answer.view.join_keys]
    references = [one for one in response.features if one.partition(":")[0] == name]
    columns: dict[str, list[Text]] = {"": [_mark(bool(one)) for one in answer.degraded]}
    columns |= {key: [shown(value) for value in response.entity[key]] for key in keys}
    for reference in references:
        values, nulls = response.columns[reference], response.nulls[reference]
        out = reference.replace(":", "__", 1) if full_names else reference.partition(":")[2]
        columns[out] = [shown(value, is_null=bool(null)) for value, null in zip(values, nulls, strict=True)]
    columns["origin"] = [Text(Origin(int(code)).name) for code in truth.origin]
    columns["status"] = [Text(Status(int(code)).name) for code in truth.status]
    columns["age"] = [Text(age(float(one))) for one in truth.age_s]
    if provenance:
        columns["cause"] = [Text(Cause(int(code)).name) for code in truth.cause]
        columns["fault"] = [Text("yes" if one else "no") for one in truth.injected]
    if timestamps:
        columns["event time"] = [Text(instant(int(one))) for one in truth.event_time]
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def _mark(is_degraded: bool) -> Text:
    return Text(MARK, style="bold yellow") if is_degraded else Text("")
