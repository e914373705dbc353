"""`StoreContract`: every promise of a store, put together."""

from __future__ import annotations

from featurechaos.contract.reading import ReadingCases
from featurechaos.contract.trouble import TroubleCases
from featurechaos.contract.writing import WritingCases


class StoreContract(ReadingCases, WritingCases, TroubleCases, is_of_a_store=False):
    """Every promise of a store, one a test; a subclass gives `open`, and the hooks that apply to it (see `Suite`)."""
