"""The published vectors, and a second writer and reader made from the documented form alone.

`vectors.json` was written once. If this fails, every row stored by an earlier version has become unreadable.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurechaos.codec import Layout, column, decode, encode, encode_keys, encode_tombstones, nulls
from featurechaos.codec.hashing import ROW
from featurechaos.model import Verdict

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "vectors.json").read_text())
NAMES = [vector["name"] for vector in VECTORS]
MASK = (1 << 64) - 1


def given_value(value: Any) -> Any:
    """A value as JSON can say it -> as Python has it: {"time": us}, {"base64": text}, {"float": repr}."""
    if isinstance(value, list):
        return [given_value(part) for part in value]
    if isinstance(value, dict):
        [(kind, said)] = value.items()
        readers: dict[str, Any] = {
            "time": lambda us: np.datetime64(us, "us"),
            "base64": base64.b64decode,
            "float": float,
        }
        return readers[kind](said)
    return value


def splitmix(seed: int, count: int) -> list[int]:
    """Odd multipliers, from the documentation's words."""
    found = []
    for at in range(1, count + 1):
        z = (seed + at * 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        found.append((z ^ (z >> 31)) | 1)
    return found


def mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def spread(value: int) -> int:
    value = (value * 0xD6E8FEB86659FD93) & MASK
    return ((value ^ (value >> 32)) * 0xFF51AFD7ED558CCD) & MASK


@pytest.mark.parametrize("vector", VECTORS, ids=NAMES)
def test_rows_are_written_as_published(vector: dict[str, Any]) -> None:
    layout = Layout.from_description(vector["description"].encode())
    keys, _, _ = encode_keys(layout.join_keys, [[given_value(value)] for value in vector["key"]])
    times = np.array([vector["event_time_us"]])

    if vector["values"] is None:
        blobs = encode_tombstones(layout, times, keys.own)
    else:
        columns = {name: [given_value(value)] for name, value in vector["values"].items()}
        blobs = encode(layout, columns, times, keys.own)

    assert layout.describe().decode() == vector["description"]
    assert f"{layout.hash:016x}" == vector["schema_hash"]
    assert keys.ids == [vector["id"].encode()]
    assert [f"{keys.own[0]:016x}", f"{keys.slots[0]:016x}"] == [vector["own"], vector["slot"]]
    assert blobs[0].hex() == vector["row"]


@pytest.mark.parametrize("vector", VECTORS, ids=NAMES)
def test_published_rows_are_read(vector: dict[str, Any]) -> None:
    layout = Layout.from_description(vector["description"].encode())
    own = np.array([int(vector["own"], 16)], np.uint64)

    rows, _ = decode([bytes.fromhex(vector["row"])], own, layout)

    assert rows.event_time.tolist() == [vector["event_time_us"]]
    if vector["values"] is None:
        assert rows.verdicts.tolist() == [Verdict.BURIED]
        return
    assert rows.verdict == Verdict.FRESH
    for name, said in vector["values"].items():
        value, cell = given_value(said), column(rows, name)[0]
        assert nulls(rows, name).tolist() == [value is None]
        if isinstance(value, list):
            assert list(cell) == value
        elif value is not None:
            assert cell == value


@pytest.mark.parametrize("vector", VECTORS, ids=NAMES)
def test_the_documentation_suffices_to_check_a_row(vector: dict[str, Any]) -> None:
    row, own = bytes.fromhex(vector["row"]), int(vector["own"], 16)
    schema = int.from_bytes(hashlib.blake2b(vector["description"].encode(), digest_size=8).digest(), "little")
    words = struct.unpack(f"<{len(row) // 4}I", row)
    table = splitmix(0xFC01, len(words))
    table[8:10] = [-1, -(1 << 32)]

    total = sum(word * multiplier for word, multiplier in zip(words, table, strict=True))

    assert (total + mix(schema ^ mix(1)) + own) & MASK == 0
    assert struct.unpack_from("<HBBIQqQ", row) == (
        0xFC01,
        1,
        2 if vector["values"] is None else row[3] & 1,
        len(row),
        schema,
        vector["event_time_us"],
        own,
    )


@pytest.mark.parametrize("vector", VECTORS, ids=NAMES)
def test_the_documentation_suffices_to_hash_a_key(vector: dict[str, Any]) -> None:
    known, keys = vector["id"].encode(), json.loads(vector["description"])["keys"]
    if len(keys) == 1 and keys[0][1] in {"int32", "int64", "timestamp"}:
        own = slot = spread(int(known))
    else:
        words = struct.unpack(f"<{-(-len(known) // 4)}I", known.ljust(-(-len(known) // 4) * 4, b"\0"))
        own, slot = (
            spread(
                sum(word * by for word, by in zip((len(known), *words), splitmix(seed, len(words) + 1), strict=True))
            )
            for seed in (0xFC02, 0xFC03)
        )

    assert [f"{own:016x}", f"{slot:016x}"] == [vector["own"], vector["slot"]]


def test_the_whole_table_of_multipliers_is_as_documented() -> None:
    table = splitmix(0xFC01, len(ROW))
    table[8:10] = [MASK, (-(1 << 32)) & MASK]

    assert ROW.tolist() == table
