"""`config show` and `config schema`."""

from __future__ import annotations

from featurechaos.cli.opening import CONFIG, Config, Json, settings_of
from featurechaos.cli.output import put, put_json

HELP = "What a config means."


def show(config: Config = CONFIG, as_json: Json = False) -> None:
    """Print what is really in force: defaults filled in, secrets left out."""
    dump = settings_of(config).dump()
    if as_json:
        put_json(dump)
        return
    import yaml

    text = yaml.safe_dump(dump, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    put(text.rstrip("\n"))


def schema() -> None:
    """Print the JSON schema of a config, for editors and checks."""
    from featurechaos.config import schema as whole

    put_json(whole())


COMMANDS = {
    "show": (show, ["featurechaos config show", "featurechaos config show --config prod.yaml --json"]),
    "schema": (schema, ["featurechaos config schema > featurechaos.schema.json"]),
}
