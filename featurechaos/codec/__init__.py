"""One row, one binary form: the same bytes in Redis, in the last-known cache and in a snapshot replica.

    offset  size  what
    0       2     magic 0xFC01, little-endian like everything here
    2       1     version 1
    3       1     flags: 1 tail, 2 tombstone
    4       4     length of the whole row in bytes, a multiple of 8, at most MOST_ROW_BYTES
    8       8     schema hash of the layout
    16      8     event time, int64 microseconds UTC
    24      8     own: the hash of the row's key values
    32      8     checksum
    40      ..    null bitmap (bit i of byte i//8: feature i in declared order is null), padded to 8 and
                  never empty
    ..      ..    fixed-width columns: for 8, 4 and then 1 byte types, scalars type by type (int64, float64,
                  timestamp; int32, float32; bool), then vectors; in declared order, padded to 8 at the end
    ..      ..    tail, if the layout has any string, bytes or list: one u32 end a variable feature
                  (relative to the first byte after the ends), then the bytes; padded to 8 with zeros

A tombstone is the header alone (40 bytes).

The checksum is what makes the sum over the row's 32-bit words w[i] * M[i], plus K, plus the own key, come to
0 modulo 2**64. M[i] is splitmix64's output i + 1 from seed 0xFC01 with its lowest bit set, but -1 and -2**32
at the checksum itself (words 8 and 9). K is mix(schema hash ^ mix(version)), mix being splitmix64's finish.
The reader adds the own key and the K it expects, so damage, a foreign schema and another entity's row all
fail one comparison. A null cell holds NaN, NaT, 0, False or no bytes, with its bit set.

The schema hash is blake2b-64, little-endian, of `Layout.describe()`. The own key of one integer or timestamp
is `hashing.spread` of its value; any other key's is `hashing.hash_ids` of its id. Vectors to check another
writer against are in `tests/codec/vectors.json`.
"""

from __future__ import annotations

from featurechaos.codec.hashing import MOST_ROW_BYTES
from featurechaos.codec.keys import Keys, encode_key, encode_keys
from featurechaos.codec.layout import HEADER_BYTES, Layout, Words
from featurechaos.codec.lists import Selection, dated, has_nulls, lists
from featurechaos.codec.packed import Packed
from featurechaos.codec.read import decode, verify, whole
from featurechaos.codec.rows import Rows, column, columns, nulls
from featurechaos.codec.write import encode, encode_tombstones, pack, seal

__all__ = [
    "HEADER_BYTES",
    "MOST_ROW_BYTES",
    "Keys",
    "Layout",
    "Packed",
    "Rows",
    "Selection",
    "Words",
    "column",
    "columns",
    "dated",
    "decode",
    "encode",
    "encode_key",
    "encode_keys",
    "encode_tombstones",
    "has_nulls",
    "lists",
    "nulls",
    "pack",
    "seal",
    "verify",
    "whole",
]
