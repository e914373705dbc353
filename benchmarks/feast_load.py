"""`python -m benchmarks.feast_load JOB`: Feast under the same load, in an environment that has Feast and not us."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.feast_peer import Shop
from benchmarks.load import ENTITIES, KEY, MARK, PRIMARY, VIEW, WRONG, Read, play


def feast(folder: Path, job: Mapping[str, Any]) -> Read:
    features = {VIEW: job["features"]}
    shop = Shop(folder, {"features": features, "seed": job["seed"], "port": job["port"], "entities": 0})
    shop.fill_marked(ENTITIES)
    wanted, get = shop.references([VIEW]), shop.store.get_online_features

    def read(ids: Sequence[int]) -> str:
        got = get(features=wanted, entity_rows=[{KEY: one} for one in ids]).to_dict()
        return PRIMARY if got[MARK] == list(ids) else WRONG

    return read


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    play(feast(Path(given["folder"]), given), given)
