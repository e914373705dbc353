"""What the documents show can be used as it stands, and is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from featurechaos.config import Policy, load
from featurechaos.drills import parse_script
from featurechaos.drills.faults import FAULTS
from featurechaos.drills.probes import PROBES


def blocks(path: Path) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def test_the_config_of_the_reference_loads_and_shows_the_defaults(root: Path) -> None:
    written = yaml.safe_load(blocks(root / "docs" / "config.md")[0])

    settings = load(written)

    default = Policy()
    assert settings.policy.model_copy(update={"order": ()}) == default
    assert settings.dump()["policy"]["order"] == ["primary", "standby"]


def test_the_config_of_rows_that_others_write_loads(root: Path) -> None:
    (shown,) = [each for each in blocks(root / "docs" / "config.md") if each.startswith("# rows-of-others.yaml")]

    assert load(yaml.safe_load(shown)).dump()["sources"]["primary"]["key"] == "{view}:{keys}"


@pytest.mark.parametrize("number", [0, 1])
def test_the_drills_of_the_reference_are_right(root: Path, number: int) -> None:
    script = parse_script(blocks(root / "docs" / "drills.md")[number])

    assert script.faults


def test_every_fault_and_probe_that_is_built_is_in_the_reference(root: Path) -> None:
    text = (root / "docs" / "drills.md").read_text(encoding="utf-8")
    built = [*FAULTS, *(name for name in PROBES if name not in ("overlap_at_k", "time_to_alarm_s", "shadow_drops"))]

    assert [name for name in built if f"`{name}`" not in text] == []
