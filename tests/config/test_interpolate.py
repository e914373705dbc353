"""What a config takes from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from featurechaos.config.interpolate import resolve
from featurechaos.errors import SpecError


@pytest.mark.parametrize(
    ("written", "filled"),
    [
        ("${A}", "one"),
        ("x${A}y${B}", "xoneytwo"),
        ("${UNSET:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${A:-d}", "one"),
        ("${UNSET:-a:-b}", "a:-b"),
        ("redis://${UNSET:-127.0.0.1}:6379/0", "redis://127.0.0.1:6379/0"),
        ("$$", "$"),
        ("$${A}", "${A}"),
        ("$$${A}", "$one"),
        ("pa$s $ word$", "pa$s $ word$"),
        ("${UNSET:-}", None),
        ("${EMPTY}", None),
        ("${UNSET:-null}", None),
        ("x${UNSET:-}", "x"),
        ("${DOLLARS}", "$$ ${A}"),
        (5, 5),
        (None, None),
    ],
)
def test_pieces_are_filled_in(written: Any, filled: Any) -> None:
    environ = {"A": "one", "B": "two", "EMPTY": "", "DOLLARS": "$$ ${A}"}

    resolved = resolve({"deep": [{"key": written}]}, environ)

    assert resolved.tree == {"deep": [{"key": filled}]}
    assert resolved.original == {"deep": [{"key": written}]}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            "${UNSET}",
            "deep[0].key: the environment variable UNSET is not set (${UNSET:-x} would give it a default)",
        ),
        ("${A", "deep[0].key: has a ${ without its }, or one inside another; write $$ for a dollar"),
        ("${A:-${B}}", "deep[0].key: has a ${ without its }, or one inside another; write $$ for a dollar"),
        ("${}", "deep[0].key: has a ${...} that is none of ${VAR}, ${VAR:-x} and ${file:/path}"),
        ("${A-B}", "deep[0].key: has a ${...} that is none of"),
        (
            "${file:/no/such/file}",
            "deep[0].key: the file '/no/such/file' cannot be used: No such file or directory",
        ),
        ("${file:}", "deep[0].key: the file '' cannot be used: Is a directory"),
        ("${file:a\0b}", "cannot be used: it is not a path"),
    ],
)
def test_what_cannot_be_filled_in_is_told_with_its_place(written: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        resolve({"deep": [{"key": written}]}, {"A": "1"})

    assert message in str(caught.value)


def test_a_file_loses_the_newline_at_its_end_only(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b" a\nb \r\n")

    assert resolve({"key": f"<${{file:{file}}}>"}, {}).tree == {"key": "< a\nb >"}


@pytest.mark.parametrize("content", [b"\xff", b"x" * 70_000])
def test_a_file_must_be_short_text(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)

    with pytest.raises(SpecError, match=r"key: the file .* cannot be used: wanted text of at most 65536 bytes"):
        resolve({"key": f"${{file:{file}}}"}, {})
