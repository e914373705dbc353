"""From a file or a mapping to settings: the one way down."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from featurechaos.config import policies, sources, views
from featurechaos.config.interpolate import Resolved, resolve
from featurechaos.config.mistakes import Mistake, spot, told
from featurechaos.config.read import read
from featurechaos.config.secrets import Secrets
from featurechaos.config.settings import Settings, Source, ViewPolicy
from featurechaos.config.spec import Chaos, Core, Impact, Metrics
from featurechaos.errors import SpecError
from featurechaos.model import View

log = logging.getLogger(__name__)

ARMED = "FEATURECHAOS_CHAOS"
BYPASS = "FEATURECHAOS_BYPASS"
TOKEN = "FEATURECHAOS_TOKEN"  # noqa: S105 - where one is found
_LEAST_TOKEN = 16
# Part of every stored key, of paths and of folder names.
_PRINTABLE = re.compile(r"[!-~]+")
_PROJECT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")


def load(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
    stores: sources.Stores | None = None,
    name: str | None = None,
) -> Settings:
    """Read, fill in and check a config.

    Args:
        source: the path of a YAML file, or a mapping of the same shape.
        environ: where `${VAR}` and the arming come from; the process's environment if None. Nothing
            below this reads it.
        stores: store classes by type, before the built-in and installed ones.
        name: what to call the config in messages; its file name, or `config`, if None.

    Raises:
        SpecError: one sentence, beginning with the file's name and the path of the mistake.
    """
    own_name, written = read(source)
    environ = os.environ if environ is None else environ
    secrets = Secrets()
    try:
        resolved = resolve(written, environ)
        secrets = resolved.secrets
        settings = _settings(name or own_name, resolved, environ, stores)
        return settings if isinstance(source, Mapping) else replace(settings, path=str(Path(source).absolute()))
    except Mistake as mistake:
        at = f"{spot(mistake.path)}: " if mistake.path else ""
        problem = f"{name or own_name}: {at}{secrets.message(mistake.reason)}"
    # Out here, so that nothing that repeats the config's values is chained to it.
    raise SpecError(problem)


def schema(stores: sources.Stores | None = None) -> dict[str, Any]:
    """The JSON schema of a config, with what each store found here takes under `sources`."""
    from pydantic.json_schema import models_json_schema

    found = {kind: store.spec for kind, store in sorted(sources.find(stores).items())}
    models = [(model, "validation") for model in (Core, *found.values())]
    references, definitions = models_json_schema(models, ref_template="#/$defs/{model}")  # type: ignore[arg-type]
    whole = {**references[Core, "validation"], **definitions}
    core = whole["$defs"][Core.__name__]
    core["properties"]["sources"]["additionalProperties"] = {
        "anyOf": [references[spec, "validation"] for spec in found.values()]
    }
    for kind, spec in found.items():
        shape = whole["$defs"][references[spec, "validation"]["$ref"].rpartition("/")[2]]
        shape["properties"] |= {"type": {"const": kind}, "role": {"enum": ["primary", "replica", "snapshot"]}}
        shape["required"] = sorted({*shape.get("required", ()), "type"})
    return whole


def _settings(name: str, resolved: Resolved, environ: Mapping[str, str], stores: sources.Stores | None) -> Settings:
    core = _core(resolved)
    if not _PROJECT.fullmatch(core.project):
        raise Mistake(("project",), f"wanted letters, digits, _ and -, got {core.project!r:.60}")
    policies.check_order(core.policy.order, core.sources, ("policy", "order"))
    made = sources.make(resolved, order=core.policy.order, stores=stores)
    policy = core.policy.model_copy(update={"order": core.policy.order or tuple(made)})
    known = views.make(core.project, core.views)
    each = policies.make(policy, core.views, made)
    policies.check_times(policy, each, made)
    policies.check_hedge(policy, each, made)
    # A section that is null is off: nothing is scored twice.
    impact = core.impact or Impact(sample_share=0)
    policies.check_reference(impact.reference_source, made)
    sources.check(made, _read_from(made, known, each, impact.reference_source))
    is_bypassed = environ.get(BYPASS) == "1"
    for variable, on in ((BYPASS, "1"), (ARMED, "armed")):
        if environ.get(variable, "") not in ("", "0", on):
            log.warning("%s: %s: only %r sets it, which is not what it is", name, variable, on)
    if is_bypassed:
        policy, each = policies.bypassed(policy, each)
    chaos, is_armed = core.chaos or Chaos(), environ.get(ARMED) == "armed" and not is_bypassed
    metrics = core.metrics or Metrics()
    _check_ports(chaos, metrics)
    token = environ.get(TOKEN) or None
    if chaos.listen is not None and (token is not None or (chaos.enabled and is_armed)):
        _check_token(token)
    return Settings(
        name=name,
        project=core.project,
        sources=MappingProxyType(made),
        views=MappingProxyType(known),
        policies=MappingProxyType(each),
        policy=policy,
        services=MappingProxyType(views.services(core.services, known)),
        chaos=chaos,
        impact=impact,
        metrics=metrics,
        is_armed=is_armed,
        is_bypassed=is_bypassed,
        source_text=resolved.original,
        secrets=resolved.secrets.and_also(token),
        stores=stores,
        chaos_token=token,
    )


def _read_from(
    made: Mapping[str, Source],
    known: Mapping[str, View],
    each: Mapping[str, ViewPolicy],
    reference: str | None,
) -> dict[str, list[View]]:
    """The views that are read from each source; a reference may be asked for any."""
    return {
        name: [view for view in known.values() if name == reference or name in each[view.name].order] for name in made
    }


def _check_ports(chaos: Chaos, metrics: Metrics) -> None:
    """One port is not both: whichever is opened second would find it taken."""
    host, _, port = (chaos.listen or "").rpartition(":")
    # Metrics are served on 127.0.0.1; 0 is any free port.
    if metrics.port and host in ("127.0.0.1", "localhost") and int(port) == metrics.port:
        wanted = f"wanted another port than metrics.port, which is {metrics.port}"
        raise Mistake(("chaos", "listen"), f"{wanted}, got {chaos.listen!r}")


def _check_token(token: str | None) -> None:
    """Whoever may inject here from outside must show something that is not guessed."""
    wanted = f"wanted a token of {_LEAST_TOKEN} or more letters, digits and signs in the environment variable {TOKEN}"
    if token is None:
        raise Mistake(("chaos", "listen"), f"{wanted}, got none")
    if len(token) < _LEAST_TOKEN:
        raise Mistake(("chaos", "listen"), f"{wanted}, got {len(token)}")
    if not _PRINTABLE.fullmatch(token):
        raise Mistake(("chaos", "listen"), f"{wanted}, got one with other characters in it")


def _core(resolved: Resolved) -> Core:
    mistake: Mistake
    try:
        return Core.model_validate(resolved.tree)
    except ValidationError as error:
        mistake = told(error, Core, resolved.tree, (), resolved.secrets)
    raise mistake
