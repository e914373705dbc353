"""A damaged row is CORRUPT: never an exception, never a wrong value, never its neighbours' trouble."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurechaos.codec import MOST_ROW_BYTES, column, decode, encode, encode_tombstones, nulls, seal, verify
from featurechaos.codec.hashing import ROW, multipliers
from featurechaos.codec.rows import Rows
from featurechaos.model import NO_TIME_US, Verdict

TRIALS = 20_000
FLOATS = {f"f{k}": "float32" for k in range(20)}
TEXTS = {"name": "string", "raw": "bytes", "tags": "list[string]", "sizes": "list[float32]", "age": "int32"}
FIRST_FLOAT = 12
"""The 32-bit word at which the floats of FLOATS begin: after the header and one word of bitmap."""


@pytest.fixture(scope="module")
def rows(layout_of: Any, own_of: Any) -> Rows:
    draws = np.random.default_rng(11)
    columns = {name: draws.normal(size=TRIALS).astype(np.float32) for name in FLOATS}
    times = draws.integers(1, 2**50, TRIALS)
    layout = layout_of(FLOATS)
    return decode(encode(layout, columns, times, own_of(TRIALS)), own_of(TRIALS), layout)[0]


def two_signs(words: Any, draws: Any) -> None:
    first = draws.integers(0, 10, TRIALS) * 2 + 1
    other = (first + draws.integers(1, 10, TRIALS) * 2) % 20
    for places in (first, other):
        words[np.arange(TRIALS), FIRST_FLOAT + places] ^= np.uint32(1 << 31)


def every_sign(words: Any, draws: Any) -> None:
    words[:, FIRST_FLOAT:] ^= np.uint32(1 << 31)


def some_bits(words: Any, draws: Any) -> None:
    order = np.argsort(draws.random((TRIALS, 3)), axis=1)
    places = draws.integers(0, words.shape[1] // 4, (TRIALS, 3)) * 4 + order
    for flip in range(3):
        hit = draws.integers(1, 4, TRIALS) > flip
        bits = np.where(hit, np.uint32(1) << draws.integers(0, 32, TRIALS, dtype=np.uint32), np.uint32(0))
        words[np.arange(TRIALS), places[:, flip]] ^= bits


def swapped_words(words: Any, draws: Any) -> None:
    first = draws.integers(FIRST_FLOAT, words.shape[1], TRIALS)
    other = FIRST_FLOAT + (first - FIRST_FLOAT + draws.integers(1, 20, TRIALS)) % 20
    here = np.arange(TRIALS)
    words[here, first], words[here, other] = words[here, other], words[here, first]


def zeroed_run(words: Any, draws: Any) -> None:
    begin = draws.integers(FIRST_FLOAT, words.shape[1] - 4, (TRIALS, 1))
    words[:] = np.where((np.arange(words.shape[1]) >= begin) & (np.arange(words.shape[1]) < begin + 4), 0, words)


def moved_time(words: Any, draws: Any) -> None:
    words.view(np.int64)[:, 2] += draws.integers(1, 10**12, TRIALS)


def changed_header(words: Any, draws: Any) -> None:
    words[:, 0] ^= np.uint32(1) << draws.integers(0, 32, TRIALS, dtype=np.uint32)


def changed_schema(words: Any, draws: Any) -> None:
    words.view(np.uint64)[:, 1] ^= draws.integers(1, 2**63, TRIALS).astype(np.uint64)


def another_checksum(words: Any, draws: Any) -> None:
    words.view(np.uint64)[:, 4] = np.roll(words.view(np.uint64)[:, 4], 1)


@pytest.mark.parametrize(
    "damage",
    [
        two_signs,
        every_sign,
        some_bits,
        swapped_words,
        zeroed_run,
        moved_time,
        changed_header,
        changed_schema,
        another_checksum,
    ],
)
def test_damage_is_corrupt_in_every_trial(rows: Rows, own_of: Any, damage: Any) -> None:
    words = rows.words.copy()
    damage(words.view(np.uint32), np.random.default_rng(7))
    blobs = [row.tobytes() for row in words]

    read, unknown = decode(blobs, own_of(TRIALS), rows.layout)
    checked = verify(words, own_of(TRIALS), rows.layout, np.ones(TRIALS, np.bool_))

    assert unknown == frozenset()
    assert np.unique(read.verdicts).tolist() == [Verdict.CORRUPT]
    assert np.unique(checked.verdicts).tolist() == [Verdict.CORRUPT]
    assert (read.words == rows.layout.blank).all()
    assert (checked.words == rows.layout.blank).all()


def test_sums_over_64_bit_words_would_miss_two_signs(rows: Rows) -> None:
    words = rows.words.copy()
    two_signs(words.view(np.uint32), np.random.default_rng(7))
    table = multipliers(5, rows.layout.words)

    assert (words @ table == rows.words @ table).all()


def test_folded_sums_would_miss_a_negated_row(rows: Rows) -> None:
    words = rows.words.copy()
    every_sign(words.view(np.uint32), np.random.default_rng(7))
    table = multipliers(5, rows.layout.words)
    table -= table.sum() & np.uint64(1)

    def folded(words: Any) -> Any:
        return (words ^ (words >> np.uint64(32))) @ table

    flips = folded(words) ^ folded(rows.words)
    assert ((flips & np.uint64(0x7FFFFFFF)) == 0).all()


def test_another_entitys_row_is_corrupt_and_alone(rows: Rows, own_of: Any) -> None:
    blobs = [row.tobytes() for row in rows.words[:100]]
    blobs[3], blobs[4] = blobs[4], blobs[3]

    read, _ = decode(blobs, own_of(100), rows.layout)

    assert np.flatnonzero(read.verdicts != Verdict.FRESH).tolist() == [3, 4]
    assert (read.verdicts[3:5] == Verdict.CORRUPT).all()
    assert (np.delete(read.words, [3, 4], axis=0) == np.delete(rows.words[:100], [3, 4], axis=0)).all()
    assert np.isnan(column(read, "f0")[3:5]).all()
    assert nulls(read, "f0")[3:5].all()
    assert read.blobs is None


def test_every_row_of_another_entity_is_corrupt(rows: Rows, own_of: Any) -> None:
    read = verify(rows.words.copy(), np.roll(own_of(TRIALS), 1), rows.layout, np.ones(TRIALS, np.bool_))

    assert read.verdicts.tolist() == [Verdict.CORRUPT] * TRIALS


def test_the_same_features_of_another_view_are_corrupt(rows: Rows, layout_of: Any, own_of: Any) -> None:
    other = layout_of(FLOATS, base="airport")
    blobs = [row.tobytes() for row in rows.words[:10]]

    read, unknown = decode(blobs, own_of(10), other)
    read_knowing, _ = decode(blobs, own_of(10), other, {rows.layout.hash: rows.layout})

    assert read.verdicts.tolist() == [Verdict.CORRUPT] * 10
    assert unknown == {rows.layout.hash}
    assert read_knowing.verdicts.tolist() == [Verdict.CORRUPT] * 10


@pytest.mark.parametrize("size", [0, 1, 39, 40, 48, 120, 127, 129, 136, MOST_ROW_BYTES, MOST_ROW_BYTES + 8])
def test_a_wrong_length_costs_only_its_own_row(rows: Rows, own_of: Any, size: int) -> None:
    blobs = [row.tobytes() for row in rows.words[:5]]
    blobs[2] = (blobs[2] * (size // len(blobs[2]) + 1))[:size]

    read, _ = decode(blobs, own_of(5), rows.layout)

    wanted = [Verdict.FRESH] * 2 + [Verdict.CORRUPT] + [Verdict.FRESH] * 2
    assert read.verdicts.tolist() == wanted


def test_lengths_that_make_up_for_one_another_are_seen(rows: Rows, own_of: Any) -> None:
    blobs = [row.tobytes() for row in rows.words[:4]]
    blobs[1], blobs[2] = blobs[1][8:], blobs[1][:8] + blobs[2]

    read, _ = decode(blobs, own_of(4), rows.layout)

    assert read.verdicts.tolist() == [Verdict.FRESH, Verdict.CORRUPT, Verdict.CORRUPT, Verdict.FRESH]


def test_what_is_no_bytes_is_corrupt(rows: Rows, layout_of: Any, own_of: Any) -> None:
    blobs: list[Any] = ["text", None, 7, b"", "é"]
    for layout in (rows.layout, layout_of(TEXTS)):
        read, _ = decode(blobs, own_of(5), layout)

        assert read.verdicts.tolist() == [6, Verdict.MISSING, 6, 6, 6]


@pytest.fixture(scope="module")
def ragged(layout_of: Any, own_of: Any) -> Rows:
    layout = layout_of(TEXTS)
    n = 200
    columns = {
        "name": [("é" if k % 3 else "n") * (k % 17) for k in range(n)],
        "raw": [bytes(range(k)) for k in range(n)],
        "tags": [["tag", "", "ü" * (k % 5)][: k % 4] for k in range(n)],
        "sizes": [[float(k)] * (k % 6) for k in range(n)],
        "age": list(range(n)),
    }
    return decode(encode(layout, columns, np.arange(n), own_of(n)), own_of(n), layout)[0]


def test_every_bit_of_a_row_with_a_tail_counts(ragged: Rows, own_of: Any) -> None:
    blob = (ragged.blobs or [])[14]
    own = np.repeat(own_of(15)[14:], 8 * len(blob))
    flipped = np.repeat(np.frombuffer(blob, np.uint8)[None], len(own), axis=0)
    bits = np.arange(len(own))
    flipped[bits, bits // 8] ^= (1 << bits % 8).astype(np.uint8)

    together, _ = decode([row.tobytes() for row in flipped], own, ragged.layout)
    alone = [decode([row.tobytes()], own[:1], ragged.layout)[0].verdict for row in flipped[::7]]

    assert np.unique(together.verdicts).tolist() == [Verdict.CORRUPT]
    assert {int(np.asarray(verdict).max()) for verdict in alone} == {Verdict.CORRUPT}


def resealed(ragged: Rows, own: Any, tail: bytes) -> bytes:
    """A row whose sum holds over a tail that no encoder of ours makes."""
    rows = ragged.take([14]).copy()
    rows.tails = [tail]
    return seal(rows, own[14:15])[0]


def tail_of(*cells: bytes, ends: list[int] | None = None) -> bytes:
    stops = np.cumsum([len(cell) for cell in cells]) if ends is None else ends
    body = np.array(stops, "<u4").tobytes() + b"".join(cells)
    # The fixed part is a multiple of 8 long.
    return body + bytes(-len(body) % 8)


EMPTY_LIST = bytes(4)


@pytest.mark.parametrize(
    ("tail", "is_good"),
    [
        (tail_of(b"abc", b"\xff", EMPTY_LIST, bytes(8)), True),
        (tail_of(b"abc", b"\xff", b"", bytes(8)), True),
        (tail_of("é".encode(), b"", b"\x01\0\0\0\x02\0\0\0\xc3\xa9", b""), True),
        (tail_of(b"\xff\xfe", b"", EMPTY_LIST, b""), False),
        (tail_of(b"abc", b"", EMPTY_LIST, bytes(7)), False),
        (tail_of(b"", b"", b"\x01\0\0\0", b""), False),
        (tail_of(b"", b"", b"\x01\0\0\0\x02\0\0\0\xc3", b""), False),
        (tail_of(b"", b"", b"\x01\0\0\0\x01\0\0\0\xc3", b""), False),
        (tail_of(b"", b"", b"\x02\0\0\0\x02\0\0\0\x01\0\0\0ab", b""), False),
        (tail_of(b"", b"", b"\xff\xff\xff\xff", b""), False),
        (tail_of(b"", b"", b"ab", b""), False),
        (tail_of(b"abc", b"", EMPTY_LIST, b"", ends=[3, 2, 7, 7]), False),
        (tail_of(b"abc", b"", EMPTY_LIST, b"", ends=[3, 3, 7, 7000]), False),
        (tail_of(b"abc", b"", EMPTY_LIST, b"", ends=[3, 3, 7, 2**32 - 1]), False),
        (tail_of(b"abc", b"", EMPTY_LIST, bytes(8), ends=[0, 0, 0, 0]), False),
    ],
)
def test_a_tail_that_can_not_be_read_is_corrupt_though_its_sum_holds(
    ragged: Rows, own_of: Any, tail: bytes, is_good: bool
) -> None:
    own = own_of(200)
    blobs = list(ragged.blobs or [])
    blobs[14] = resealed(ragged, own, tail)

    read, _ = decode(blobs, own, ragged.layout)
    alone, _ = decode(blobs[14:15], own[14:15], ragged.layout)

    wanted = Verdict.FRESH if is_good else Verdict.CORRUPT
    assert read.verdicts[14] == alone.verdicts[0] == wanted
    assert np.delete(read.verdicts, 14).tolist() == [Verdict.FRESH] * 199
    for name in TEXTS:
        assert len(column(read, name)) == 200
        assert len(column(alone, name)) == 1


def test_a_long_row_among_short_ones_is_read(layout_of: Any, own_of: Any) -> None:
    layout = layout_of({"name": "string"})
    names = ["a" * (60_000 if k == 7 else 0 if k == 99 else k % 40) for k in range(100)]

    read, _ = decode(encode(layout, {"name": names}, np.arange(100), own_of(100)), own_of(100), layout)

    assert column(read, "name").tolist() == names


@pytest.mark.parametrize("features", [FLOATS, TEXTS])
def test_a_tombstone_buries_its_entity_only(layout_of: Any, own_of: Any, features: dict[str, str]) -> None:
    layout, own = layout_of(features), own_of(4)
    blobs: list[bytes | None] = list(encode_tombstones(layout, np.arange(4) + 50, own))
    blobs[1] = None
    blobs[2] = encode_tombstones(layout, np.array([9]), own[3:])[0]

    read, _ = decode(blobs, own, layout)

    assert read.verdicts.tolist() == [Verdict.BURIED, Verdict.MISSING, Verdict.CORRUPT, Verdict.BURIED]
    assert read.event_time.tolist() == [50, NO_TIME_US, NO_TIME_US, 53]
    assert nulls(read, next(iter(features))).all()
    assert np.delete(read.words, 2, axis=1).tolist() == [np.delete(layout.blank, 2).tolist()] * 4


def test_a_tombstone_with_a_flipped_bit_is_corrupt(layout_of: Any, own_of: Any) -> None:
    layout = layout_of(FLOATS)
    blob = encode_tombstones(layout, np.array([1]), own_of(1))[0]
    flipped = [
        bytes(byte ^ (1 << bit % 8) * (at == bit // 8) for at, byte in enumerate(blob)) for bit in range(8 * len(blob))
    ]

    read, _ = decode(flipped, np.repeat(own_of(1), len(flipped)), layout)

    assert np.unique(read.verdicts).tolist() == [Verdict.CORRUPT]


@given(blobs=st.lists(st.one_of(st.none(), st.binary(max_size=300)), max_size=8))
def test_any_bytes_are_rows_or_corrupt(layout_of: Any, own_of: Any, blobs: list[bytes | None]) -> None:
    for features in (FLOATS, TEXTS):
        layout = layout_of(features)

        read, unknown = decode(blobs, own_of(len(blobs)), layout)

        wanted = [Verdict.MISSING if blob is None else Verdict.CORRUPT for blob in blobs]
        assert read.verdicts.tolist() == wanted
        assert unknown == frozenset()


@given(data=st.data())
def test_a_row_cut_spliced_or_changed_never_reads_as_another_value(
    ragged: Rows, own_of: Any, data: st.DataObject
) -> None:
    blobs = list(ragged.blobs or [])
    at = data.draw(st.integers(0, 199))
    blob = bytearray(blobs[at])
    for _ in range(data.draw(st.integers(1, 3))):
        begin = data.draw(st.integers(0, len(blob)))
        blob[begin : begin + data.draw(st.integers(0, 16))] = data.draw(st.binary(max_size=16))
    changed = bytes(blob) != blobs[at]
    blobs[at] = bytes(blob)

    read, _ = decode(blobs, own_of(200), ragged.layout)

    assert (read.verdicts[at] == Verdict.CORRUPT) == changed
    assert (np.delete(read.verdicts, at) == Verdict.FRESH).all()


def test_verify_tells_missing_from_corrupt(rows: Rows, own_of: Any) -> None:
    words = rows.words[:4].copy()
    words[1], words[2, 7] = 0, 3
    found = np.array([True, False, True, True])

    read = verify(words, own_of(4), rows.layout, found)

    assert read.verdicts.tolist() == [Verdict.FRESH, Verdict.MISSING, Verdict.CORRUPT, Verdict.FRESH]
    assert read.event_time[1:3].tolist() == [NO_TIME_US] * 2
    assert isinstance(verify(rows.words[:4].copy(), own_of(4), rows.layout, found | True).verdict, int)


def with_first_word(blob: bytes, first: int) -> bytes:
    """The row with another first word and a checksum that holds: what a mistaken writer could make."""
    words = np.frombuffer(blob, np.uint64).copy()
    before = int(words.view(np.uint32)[:2] @ ROW[:2])
    words[0] = first
    after = int(words.view(np.uint32)[:2] @ ROW[:2])
    words[4] = (int(words[4]) + after - before) % 2**64
    return words.tobytes()


@pytest.mark.parametrize(
    "changed",
    [
        lambda first: first ^ 1 << 0,
        lambda first: first ^ 1 << 16,
        lambda first: first ^ 1 << 24,
        lambda first: first ^ 1 << 25,
        lambda first: first ^ 1 << 26,
        lambda first: first + (8 << 32),
    ],
    ids=["magic", "version", "tail", "tombstone", "unknown flag", "length"],
)
@pytest.mark.parametrize("features", [FLOATS, TEXTS, {"raw": "bytes", "sizes": "list[float32]"}])
def test_a_header_that_is_not_the_layouts_is_corrupt_though_its_sum_holds(
    layout_of: Any, own_of: Any, features: dict[str, str], changed: Any
) -> None:
    layout, own = layout_of(features), own_of(3)
    blobs = encode(layout, {name: [None] * 3 for name in features}, np.arange(3), own)
    [first] = np.frombuffer(blobs[1][:8], np.uint64).tolist()
    assert with_first_word(blobs[1], first) == blobs[1]
    blobs[1] = with_first_word(blobs[1], changed(first))

    together, _ = decode(blobs, own, layout)
    alone, _ = decode(blobs[1:2], own[1:2], layout)

    assert together.verdicts.tolist() == [Verdict.FRESH, Verdict.CORRUPT, Verdict.FRESH]
    assert alone.verdicts.tolist() == [Verdict.CORRUPT]
    if not layout.has_tail:
        words = np.frombuffer(b"".join(blobs), np.uint64).reshape(3, -1).copy()
        gathered = verify(words, own, layout, np.ones(3, np.bool_))
        assert gathered.verdicts.tolist() == together.verdicts.tolist()


def test_ends_out_of_order_are_corrupt_where_no_text_is_looked_at(layout_of: Any, own_of: Any) -> None:
    layout, own = layout_of({"sizes": "list[float32]", "raw": "bytes", "more": "bytes"}), own_of(2)
    columns = {"sizes": [[1.0, 2.0]] * 2, "raw": [b""] * 2, "more": [b""] * 2}
    rows, _ = decode(encode(layout, columns, np.arange(2), own), own, layout)
    rows = rows.copy()
    [first, _] = rows.tails or []
    rows.tails = [first, tail_of(b"\0" * 8, b"", b"", ends=[8, 4, 8])]

    read, _ = decode(seal(rows, own), own, layout)

    assert read.verdicts.tolist() == [Verdict.FRESH, Verdict.CORRUPT]
