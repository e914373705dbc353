"""The commands put together, and what every one of them does with an error: one sentence, an exit code."""

from __future__ import annotations

import difflib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from featurechaos.cli import benching, configuring, demoing, doctoring, drilling, operating, reading, snapshots
from featurechaos.cli.output import examples, say
from featurechaos.config.mistakes import near
from featurechaos.errors import FeatureError, RequestError, SpecError
from featurechaos.version import VERSION

PROGRAM = "featurechaos"
FAILED, WRONG_INPUT = 1, 2
_EXTRAS = {"pyarrow": "s3", "boto3": "s3", "botocore": "s3", "redis": "redis", "hiredis": "redis"}

# The newest typer carries a click of its own, so these are reached by what both have in common.
_Usage: Any = typer.BadParameter.__mro__[1]


class Group(TyperGroup):
    """A group of commands that shows its help when called with none, and guesses what a typo meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        word = args[0]
        if self.get_command(ctx, word) is None and not word.startswith("-"):
            msg = f"there is no command {word!r}, {near(word, self.list_commands(ctx))}"
            raise _Usage(msg, ctx)
        return super().resolve_command(ctx, args)


def run(arguments: Sequence[str]) -> int:
    """One command from its arguments to its exit code; every error it knows becomes one sentence on stderr."""
    command: Any = typer.main.get_command(app)
    is_debug = "--debug" in takewhile(lambda word: word.startswith("-"), arguments)
    try:
        with _log(is_debug=is_debug), command.make_context(PROGRAM, list(arguments)) as context:
            code = command.invoke(context)
            sys.stdout.flush()
    except typer.Exit as stop:
        return int(stop.exit_code)
    except BrokenPipeError:
        # Whoever read us has enough; the interpreter's own flush at the end must not say it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last place that can tell anybody
        if is_debug:
            traceback.print_exc()
        message, code = told(error)
        say(f"{PROGRAM}: {message}")
        return code
    return int(code or 0)


def told(error: BaseException) -> tuple[str, int]:
    """An error as a sentence and an exit code: 2 for what the caller can put right in what was typed."""
    if isinstance(error, _Usage):
        return _usage(error), WRONG_INPUT
    if isinstance(error, (SpecError, RequestError)):
        return str(error), WRONG_INPUT
    if isinstance(error, FeatureError):
        return str(error), FAILED
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return "interrupted", FAILED
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith(PROGRAM):
        extra = _EXTRAS.get(str(error.name).partition(".")[0], "all")
        return f"this needs {error.name}: pip install '{PROGRAM}[{extra}]'", WRONG_INPUT
    if isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename else ""
        return f"{what}{error.strerror or error}", FAILED
    return f"a mistake of ours, {type(error).__name__}: {error} (`{PROGRAM} --debug ...` shows where)", FAILED


def _usage(error: Any) -> str:
    """What is wrong with the arguments, and where to look them up."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else PROGRAM
    message = error.format_message().rstrip(".")
    if type(error).__name__ == "NoSuchOption":
        # In our words: click's differ between its versions.
        message = f"there is no option {error.option_name}, {_near_option(error.option_name, context)}"
    elif problems := getattr(error.__cause__, "errors", None):
        # Some versions of typer hand on pydantic's sentence, which leaves out what came.
        problem = problems()[0]
        wanted = problem["msg"].removeprefix("Input ").partition(",")[0]
        message = f"{message.replace(problem['msg'], wanted)}, got {problem['input']!r}"
    return f"{message[:1].lower()}{message[1:]} (see {path} --help)"


def _near_option(wrong: str, context: Any) -> str:
    params = context.command.get_params(context) if context else []
    known = [name for each in params for name in (*each.opts, *each.secondary_opts) if name.startswith("--")]
    close = difflib.get_close_matches(wrong, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"


@contextmanager
def _log(*, is_debug: bool) -> Iterator[None]:
    """Our loggers for one command: all of it, or nothing, since a command tells in its own words what it meets."""
    loggers = [logging.getLogger(name) for name in ("featurechaos", "featurechaos_redis", "featurechaos_s3")]
    levels = [logger.level for logger in loggers]
    handler = logging.StreamHandler(sys.stderr) if is_debug else logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    for logger in loggers:
        logger.setLevel(logging.DEBUG if is_debug else logging.CRITICAL)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
            logger.removeHandler(handler)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"{PROGRAM} {VERSION}\n")
        raise typer.Exit


def _whole(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the log, and where an error came from.")] = False,
) -> None:
    """Options that go before a command."""


_Commands = dict[str, tuple[Callable[..., Any], Sequence[str]]]


def _group(help_text: str, commands: _Commands) -> typer.Typer:
    group = _typer(help_text)
    for name, (function, lines) in commands.items():
        group.command(name, epilog=examples(*lines))(function)
    return group


def _typer(help_text: str) -> typer.Typer:
    return typer.Typer(
        name=PROGRAM,
        cls=Group,
        help=help_text,
        add_completion=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _assembled() -> typer.Typer:
    whole = _typer("Feature reads that answer in time, and say honestly where each value came from.")
    whole.callback(epilog=examples("featurechaos demo", "featurechaos get plane:seats --entity tailnum=N14228"))(_whole)
    for module in (demoing, reading, doctoring, operating, benching):
        for name, (function, lines) in module.COMMANDS.items():
            whole.command(name, epilog=examples(*lines))(function)
    for name, group in (("config", configuring), ("snapshot", snapshots), ("drill", drilling)):
        whole.add_typer(_group(group.HELP, group.COMMANDS), name=name)
    whole.add_typer(_group(operating.SOURCE_HELP, operating.SOURCE_COMMANDS), name="source")
    whole.add_typer(_group(operating.FAULTS_HELP, operating.FAULTS_COMMANDS), name="faults")
    return whole


app = _assembled()
