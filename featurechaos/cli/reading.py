"""`get` and `explain`: what a request is answered, and what one may cost at worst."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from featurechaos.cli.answers import put_response
from featurechaos.cli.entities import entity_columns, rows_from, typed
from featurechaos.cli.opening import CONFIG, Config, Json, opened, settings_of
from featurechaos.cli.output import instant, put_json, put_table, say
from featurechaos.cli.progress import Working
from featurechaos.client import FeatureClient
from featurechaos.clock import SystemClock
from featurechaos.config import Settings
from featurechaos.errors import Exhausted, RequestError
from featurechaos.response import Response
from featurechaos.serving import Serving

REFRESH_S = 60.0
"""How long the local replicas may take to be brought up to date before a read."""
_WORDS = {
    "ask with full_feature_names=True": "add --full-names",
    "entity_rows has no such column": "no --entity or row gives it",
    "entity_rows": "the entity rows",
}
"""What the client's messages name -> what it is here."""


def get(
    features: Annotated[list[str], typer.Argument(metavar="FEATURES", help="view:feature ..., or service:NAME.")],
    *,
    config: Config = CONFIG,
    entity: Annotated[
        list[str] | None,
        typer.Option("--entity", "-e", metavar="KEY=VALUE", help="A join key; one given again makes another row."),
    ] = None,
    rows: Annotated[
        str | None, typer.Option("--rows", metavar="FILE", help="JSON: a list of entity rows; - reads stdin.")
    ] = None,
    full_names: Annotated[bool, typer.Option("--full-names", help="Name columns view__feature.")] = False,
    provenance: Annotated[bool, typer.Option("--provenance", help="Say the cause, and whether by a fault.")] = False,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="Say when each row's event was.")] = False,
    deadline: Annotated[
        float | None, typer.Option("--deadline", metavar="SECONDS", help="Default: the config's.")
    ] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh/--no-refresh", help="First bring local replicas of snapshots up to date.")
    ] = True,
    as_json: Json = False,
) -> int:
    """Read features, and say of each row where it came from and how old it is.

    A row marked ! is degraded: not simply what an online source says now.
    """
    settings = settings_of(config)
    wanted = features[0] if len(features) == 1 and features[0].startswith("service:") else features
    entity_rows = _entity_rows(settings, wanted, entity, rows)
    _check(settings, wanted, entity_rows, full_names=full_names)
    with opened(settings) as client:
        _warm(client, wanted, refresh=refresh)
        # The first read of a process pays for code met the first time, which no running service does.
        _answer(client, wanted, entity_rows, full_names=full_names, deadline_s=deadline)
        response, exhausted = _answer(client, wanted, entity_rows, full_names=full_names, deadline_s=deadline)
        if as_json:
            columns = response.to_dict(include_event_timestamps=timestamps, include_provenance=provenance)
            put_json({"request_id": response.request_id, **columns})
        else:
            put_response(response, full_names=full_names, provenance=provenance, timestamps=timestamps)
    if exhausted is not None:
        raise exhausted
    return 0


def explain(config: Config = CONFIG, as_json: Json = False) -> None:
    """Say what a read may cost at worst, for each view: calls, load on the sources, time."""
    with opened(settings_of(config)) as client:
        told = client.explain()
    if as_json:
        put_json(told)
        return
    header = ["view", "order", "most calls", "most load", "most time", "deadline"]
    put_table(
        header,
        [
            [
                view,
                ", ".join(one["order"]),
                str(one["worst_case_calls"]),
                f"{one['load_factor']:.3g}x",
                f"{one['worst_case_s'] * 1000:.4g} ms",
                f"{one['deadline_s'] * 1000:.4g} ms",
            ]
            for view, one in told.items()
        ],
    )


def _entity_rows(
    settings: Settings, wanted: Sequence[str] | str, entity: Sequence[str] | None, rows: str | None
) -> Any:
    if bool(entity) == bool(rows):
        came = "both" if entity else "neither"
        msg = f"get wants --entity KEY=VALUE or --rows FILE, got {came}"
        raise RequestError(msg)
    keys = [key for view in _views(settings, wanted) for key in settings.views[view].join_keys]
    given = entity_columns(entity) if entity else rows_from(str(rows))
    return typed(given, {key.column: key for key in keys})


def _check(settings: Settings, wanted: Sequence[str] | str, entity_rows: Any, *, full_names: bool) -> None:
    """Refuse a wrong call before anything is asked or waited for, in the words of the command line."""
    serving = Serving(settings, SystemClock(), lambda source, outcome, seconds: None, prepare=None)
    try:
        serving.call(
            wanted,
            entity_rows,
            full_feature_names=full_names,
            deadline_s=None,
            max_age_s=None,
            on_exhausted=None,
            request_id=None,
        )
    except RequestError as error:
        message = str(error)
        for here, there in _WORDS.items():
            message = message.replace(here, there)
        raise RequestError(message) from None


def _views(settings: Settings, wanted: Sequence[str] | str) -> list[str]:
    """The views of a request, those that exist; the client itself refuses the others."""
    if isinstance(wanted, str):
        wanted = settings.services.get(wanted.removeprefix("service:"), ())
    names = dict.fromkeys(reference.partition(":")[0] for reference in wanted)
    return [name for name in names if name in settings.views]


def _warm(client: FeatureClient, wanted: Sequence[str] | str, *, refresh: bool) -> None:
    """Have what a running service has long had: open connections and local replicas."""
    settings = client.settings
    local: dict[str, list[str]] = {}
    for view in _views(settings, wanted):
        for source in settings.policies[view].local:
            local.setdefault(source, []).append(settings.views[view].base)
    if refresh:
        with Working("bringing local replicas up to date"):
            for source, views in local.items():
                if hasattr(settings.sources[source].store_class, "publish"):
                    _refresh(client.snapshot_store(source), source, views)
    client.ready()


def _answer(
    client: FeatureClient, wanted: Sequence[str] | str, rows: Any, *, full_names: bool, deadline_s: float | None
) -> tuple[Response, Exhausted | None]:
    try:
        return client.get_online_features(wanted, rows, full_names, deadline_s=deadline_s), None
    except Exhausted as error:
        return error.response, error


def _refresh(store: Any, source: str, views: list[str]) -> None:
    for one in store.refresh(REFRESH_S, views=views):
        if one.state in {"refused", "failed"}:
            kept = "there is no older one" if one.as_of_us is None else f"the one of {instant(one.as_of_us)} serves on"
            say(f"source {source!r}: no new replica of view {one.view!r} ({one.detail}); {kept}")


COMMANDS = {
    "get": (
        get,
        [
            "featurechaos get plane:seats plane:engines --entity tailnum=N14228",
            "featurechaos get service:delay_model --rows rows.json --provenance --json",
            "featurechaos get plane:seats -e tailnum=N14228 -e tailnum=N24211",
        ],
    ),
    "explain": (explain, ["featurechaos explain", "featurechaos explain --config prod.yaml --json"]),
}
