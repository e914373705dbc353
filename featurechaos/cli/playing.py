"""What `drill run` and `demo` share: where their files go is known beforehand, and no accident is called a weakness."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from featurechaos.cli.output import say
from featurechaos.errors import FeatureError, RequestError, SpecError

INTERRUPTED, INCONCLUSIVE = 4, 6
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def played(what: str, play: Callable[[], _T]) -> _T | int:
    """What `play` gives, or else the exit code of why it gave nothing, told in one sentence.

    A mistake in what was typed flies on, as does a package that is not installed: both are 2. Whatever
    else went wrong is inconclusive: 1 would say that a weakness was found.
    """
    try:
        return play()
    except KeyboardInterrupt:
        say("featurechaos: interrupted")
        return INTERRUPTED
    except (SpecError, RequestError):
        raise
    except FeatureError as error:
        why = str(error)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("featurechaos"):
            raise
        _log.debug("%s could not be played", what, exc_info=error)
        why = f"{type(error).__name__}: {error} (`featurechaos --debug ...` shows where)"
    say(f"featurechaos: {what} could not be played: {why}")
    return INCONCLUSIVE


def must_take_files(folder: Path, option: str) -> None:
    """Make a folder and see that files can be made in it; RequestError if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        msg = f"{option}: {folder} takes no files: {error.strerror or error}"
        raise RequestError(msg) from error


def must_be_writable(file: Path, option: str) -> None:
    """See that a file can be written, without touching one that is there; RequestError if not."""
    if file.is_dir():
        msg = f"{option}: {file} is a folder, wanted a file"
        raise RequestError(msg)
    must_take_files(file.parent, option)
    if file.exists() and not os.access(file, os.W_OK):
        msg = f"{option}: {file} may not be written"
        raise RequestError(msg)
