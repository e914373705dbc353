"""Numbers that are told at the end of a run, as by the other live tests."""

from __future__ import annotations

from tests.live.conftest import tell

__all__ = ["tell"]
