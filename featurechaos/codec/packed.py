"""Rows as they came, in one piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from featurechaos.codec.layout import Words


class Packed(Sequence[bytes]):
    """Rows of one width: what a list of their bytes says, each of them cut out when it is asked for.

    words: uint64 (n, width / 8), C order; the `Rows` they are decoded to keep them, and have them to write.
    """

    __slots__ = ("words",)

    def __init__(self, words: Words) -> None:
        self.words = words

    def __len__(self) -> int:
        return len(self.words)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Packed | list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> Packed: ...
    def __getitem__(self, at: int | slice) -> bytes | Packed:
        return Packed(self.words[at]) if isinstance(at, slice) else self.words[at].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        return iter(_cut(self.words))

    def some(self, places: Sequence[int]) -> list[bytes]:
        """The rows in these places."""
        return _cut(self.words[places])


def _cut(words: Words) -> list[bytes]:
    """Each row's bytes, cut by numpy: a quarter of what slices take."""
    rows: list[bytes] = words.view(f"V{8 * words.shape[1]}").ravel().tolist()
    return rows
