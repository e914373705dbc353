"""What all plots of a drill share: their sizes, the faults shaded and named above, levels and moments."""

from __future__ import annotations

from dataclasses import dataclass

from featurechaos.drills import svg
from featurechaos.drills.history import Fault
from featurechaos.drills.svg import LANE, LETTER, LINE, Panel, Scale
from featurechaos.drills.window import Ledger

PSI_WARNING, PSI_ALARM = 0.1, 0.2
"""Customary levels of the population stability index; a rule of thumb, not a test."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large a drawing is, in px: `left` and `right` of the plotting area, its height, all of it."""

    width: float
    left: float
    right: float
    tall: float
    kind: str


WIDE = Size(width=860, left=52, right=848, tall=220, kind="wide")
NARROW = Size(width=340, left=42, right=332, tall=180, kind="narrow")


def panel_of(
    ledger: Ledger, size: Size, top: float, low: float, high: float, *, is_log: bool = False, tall: float | None = None
) -> Panel:
    tall = tall or size.tall
    x = Scale(ledger.whole.begin, max(ledger.whole.end, ledger.whole.begin + 1e-3), size.left, size.right)
    return Panel(x, Scale(low, high, top + tall, top, is_log=is_log))


def _label(fault: Fault) -> str:
    return f"{fault.name}: {fault.fault}" + (f" of {fault.target}" if fault.target else "")


def _placed(ledger: Ledger, size: Panel | Size) -> list[tuple[int, float]]:
    """Lane and left edge of each fault's label."""
    panel = size if isinstance(size, Panel) else panel_of(ledger, size, 0, 0, 1)
    spans = [(panel.x(begin), panel.x(end)) for _, begin, end in ledger.fault_windows]
    widths = [LETTER * len(_label(fault)) for fault, _, _ in ledger.fault_windows]
    return svg.lanes(spans, widths, least=panel.x.start, most=panel.x.stop)


def top_of(ledger: Ledger, size: Size) -> float:
    """Where the plotting area begins: below the lanes of fault labels and the y axis' name."""
    return 40 + LANE * len({lane for lane, _ in _placed(ledger, size)})


def faults(ledger: Ledger, panel: Panel, *, named: bool = True, over: bool = False) -> str:
    """Each fault's time shaded, and its name in a lane above the plot."""
    _, top, _, tall = panel.box
    placed = _placed(ledger, panel)
    parts = []
    for (fault, begin, end), (lane, left) in zip(ledger.fault_windows, placed, strict=True):
        x, wide = panel.x(begin), panel.x(end) - panel.x(begin)
        if not over:
            parts.append(svg.box((x, top), (wide, tall), kind="fault", title=_label(fault)))
        parts += [svg.line((at, top), (at, top + tall), kind="edge") for at in (x, x + wide)]
        if named:
            y = top - 40 - LANE * lane
            parts += [
                svg.line((x, y + 5), (x + wide, y + 5), kind="span"),
                svg.text((left, y), _label(fault), kind="fault-name"),
            ]
    return "".join(parts)


def level(panel: Panel, value: float, name: str) -> str:
    """A level to compare with: a dashed line, its name on it at the right, below it where a mark would touch it."""
    left, top, wide, _ = panel.box
    y = panel.y(value)
    name_y = y - 5 if y - top > 2 * LINE else y + 13
    return svg.line((left, y), (left + wide, y), kind="level") + svg.text(
        (left + wide - 2, name_y), name, kind="level-name", anchor="end"
    )


def psi_levels(panel: Panel) -> list[str]:
    """Both customary levels; one name for the two where their lines are too close for two."""
    if panel.y(PSI_WARNING) - panel.y(PSI_ALARM) >= LINE:
        return [level(panel, PSI_WARNING, "usual warning 0.1"), level(panel, PSI_ALARM, "usual alarm 0.2")]
    return [level(panel, PSI_WARNING, ""), level(panel, PSI_ALARM, "usual warning 0.1, alarm 0.2")]


def mark(panel: Panel, at_s: float, name: str) -> str:
    """A moment: a triangle on the upper edge with its word beside it."""
    left, top, wide, _ = panel.box
    x = panel.x(at_s)
    is_left = x > left + wide - LETTER * len(name) - 12
    word = svg.text(
        (x - 8 if is_left else x + 8, top + 12), name, kind="alarm-name", anchor="end" if is_left else "start"
    )
    return f'<path d="M{x - 5:g} {top:g}h10l-5 9z" class="alarm"/>' + word


def figure(parts: list[str], size: Size, panel: Panel, label: str) -> str:
    _, top, _, tall = panel.box
    return svg.figure("".join(parts), width=size.width, height=top + tall + 44, label=label, kind=f"plot {size.kind}")
