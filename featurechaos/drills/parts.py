"""What the pages of a drill and of a bench are put together from: badge, tiles, pictures, tables, as HTML text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from featurechaos.drills.checks import Outcome
from featurechaos.drills.plots import Plot

LOOKS = {
    Outcome.HELD: ("good", "\N{CHECK MARK}"),
    Outcome.WEAKNESS: ("bad", "\N{MULTIPLICATION X}"),
    Outcome.UNKNOWN: ("doubt", "?"),
    Outcome.INCONCLUSIVE: ("doubt", "?"),
    Outcome.GUARD: ("bad", "\N{BLACK SQUARE}"),
    Outcome.INTERRUPTED: ("doubt", "\N{BLACK SQUARE}"),
    Outcome.UNDO_FAILED: ("bad", "!"),
    Outcome.INVALID: ("bad", "!"),
}
WORDS = {
    Outcome.HELD: "Held",
    Outcome.WEAKNESS: "Weakness found",
    Outcome.UNKNOWN: "unknown",
    Outcome.INCONCLUSIVE: "Inconclusive",
    Outcome.GUARD: "Stopped by a guard",
    Outcome.INTERRUPTED: "Interrupted",
    Outcome.UNDO_FAILED: "Undo failed",
    Outcome.INVALID: "Invalid",
}


def whole(title: str, body: Iterable[str], *, style: str = "") -> str:
    """The whole page, UTF-8 text: no script, nothing fetched; `style` is added to ours."""
    ours = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>"
        f"<style>\n{ours}{style}</style></head>\n<body><main>\n{''.join(body)}</main></body></html>\n"
    )


def badge(outcome: Outcome, word: str = "") -> str:
    """An outcome as a coloured word with its sign; the word is the outcome's own unless another is given."""
    look, sign = LOOKS[outcome]
    return f'<span class="badge {look}"><span aria-hidden="true">{sign}</span> {escape(word or WORDS[outcome])}</span>'


def tiles(told: Iterable[tuple[str, str, str]]) -> str:
    """The few numbers that matter, each with its name above and something small below."""
    inside = "".join(
        f'<div class="tile"><dt>{escape(name)}</dt><dd class="big">{escape(big)}</dd>'
        f'<dd class="small">{prose(small)}</dd></div>'
        for name, big, small in told
    )
    return f'<dl class="tiles">{inside}</dl>\n'


def prose(text: str) -> str:
    """Text as HTML that breaks no line between a number and its unit."""
    return re.sub(r"(?<=\d) (?=(?:ms|s|min|h|d)\b|%)", "\N{NO-BREAK SPACE}", escape(text))


def section(plot: Plot) -> str:
    """A picture with its title, what it says in words, and its key."""
    key = "".join(f'<li><i class="{kind}"></i>{escape(name)}</li>' for kind, name in plot.key)
    return (
        f'<section id="{plot.name}"><h2>{escape(plot.title)}</h2><p class="soft">{prose(plot.says)}</p>'
        f'<ul class="key" aria-label="Key">{key}</ul>{plot.wide}{plot.narrow}</section>\n'
    )


def table(
    title: str, heads: Sequence[str], rows: Iterable[Sequence[str] | str], *, note: str = "", kind: str = "wide"
) -> str:
    """A table in its own scrolling box. Heads with a # are of numbers; cells are HTML; a text heads a group."""
    marks = [' class="number"' if head.startswith("#") else "" for head in heads]
    top = "".join(
        f'<th scope="col"{mark}>{escape(head.lstrip("#"))}</th>' for head, mark in zip(heads, marks, strict=True)
    )
    body = []
    for row in rows:
        if isinstance(row, str):
            body.append(f'<tr><th scope="rowgroup" colspan="{len(heads)}">{escape(row)}</th></tr>')
        else:
            body.append(
                "<tr>" + "".join(f"<td{mark}>{cell}</td>" for cell, mark in zip(row, marks, strict=True)) + "</tr>"
            )
    said = f'<p class="soft">{escape(note)}</p>' if note else ""
    return (
        f"<section><h2>{escape(title)}</h2>{said}"
        f'<div class="scroll" role="region" aria-label="{escape(title, quote=True)}" tabindex="0">'
        f'<table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{"".join(body)}</tbody></table></div></section>\n'
    )
