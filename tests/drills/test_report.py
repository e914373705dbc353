"""The report: one page that fetches nothing and says what the verdict says, with its files beside it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurechaos.drills import History, Script, judge, write_report
from featurechaos.drills.frame import NARROW, WIDE
from featurechaos.drills.history import End, Fault, Note, Pair, Request, Start, read_history
from featurechaos.drills.svg import LETTER, decades, lanes, ticks
from tests.drills.histories import Story, kill_script, plus, without

VOID = {"meta", "br", "line", "circle", "rect", "path"}


class Page(HTMLParser):
    """A page's tags, checked to be closed in order, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID or (tag in {"rect", "path"} and not self.get_starttag_text().endswith("/>")):  # type: ignore[union-attr]
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def text(held: History, script: Script, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = write_report(held, script, judge(held, script), tmp_path_factory.mktemp("report"))
    assert path.name == "report.html"
    return path.read_text(encoding="utf-8")


def test_nothing_is_fetched_and_nothing_runs(text: str) -> None:
    page = Page(text)

    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert not re.findall(r"url\(|@import|javascript:|<script|<link|<iframe|<img", text)
    assert not [attrs for _, attrs in page.tags if attrs.keys() & {"src", "href", "onload", "onclick"}]


def test_it_says_verdict_numbers_plots_and_tables(text: str, script: Script) -> None:
    page = Page(text)

    assert "<h1>" + script.title in text
    assert "All 21 checks held" in text
    for words in (
        "latency, ms (log scale)",
        "share of rows, %",
        "decisions changed, % of pairs",
        "PSI of all scores so far, no unit",
    ):
        assert text.count(words) == 2
    assert text.count("time since the drill began, s") == 6
    assert [attrs["id"] for attrs in page.named("section") if "id" in attrs] == ["latency", "origins", "flips"]
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in page.named("svg"))
    assert "prefers-color-scheme: dark" in text
    assert len(page.named("table")) == 3


def test_every_plot_shades_and_names_the_fault(text: str) -> None:
    drawn = re.findall(r"<svg.*?</svg>", text, re.DOTALL)

    assert len(drawn) == 6
    assert all("kill-primary: process_kill of primary</text>" in one for one in drawn)
    assert all('class="edge"' in one for one in drawn)


def test_what_a_drill_says_of_itself_cannot_break_the_page(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\" & '"
    script = kill_script(title=evil, description=evil)
    history = plus(
        Story(rate_per_s=4).told(script),
        Note(t=20, event=evil, detail=evil),
        Fault(t=20, name=evil, fault=evil, state="applied"),
    )

    text = write_report(history, script, judge(history, script), tmp_path).read_text()

    assert "<script" not in text
    assert "&lt;script&gt;" in text
    Page(text)


@pytest.mark.parametrize(
    "history",
    [
        History(()),
        without(Story(rate_per_s=4).told(), Request, Pair),
        without(Story(rate_per_s=4).told(), Pair, Fault),
        without(Story(rate_per_s=4, errors=1.0).told(), End),
        History((Start(t=0, script={}), Request(t=0, t_done=0, latency_s=0, request_id="a"))),
    ],
    ids=["empty", "no requests", "no faults", "all failed", "one empty request"],
)
def test_a_poor_history_still_gives_a_page(history: History, script: Script, tmp_path: Path) -> None:
    Page(write_report(history, script, judge(history, script), tmp_path).read_text())


def test_the_files_beside_it_say_the_same(held: History, script: Script, tmp_path: Path) -> None:
    forms = kill_script(report={"formats": ["html", "md", "json", "junit"]})
    verdict = judge(held, script)

    write_report(held, forms, verdict, tmp_path / "new")

    told = json.loads((tmp_path / "new/verdict.json").read_text())
    assert (told["outcome"], told["exit_code"], told["numbers"]) == ("held", 0, verdict.numbers)
    assert read_history(tmp_path / "new/history.jsonl") == held
    assert (tmp_path / "new/report.md").read_text().count("\n| held |") == len(verdict.checks)
    suite = ET.parse(tmp_path / "new/report.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("22", "0")
    assert not list((tmp_path / "new").glob("*.part"))


def test_junit_counts_failures_and_unknowns(tmp_path: Path) -> None:
    script = kill_script(report={"formats": ["junit"]})
    history = without(Story(rate_per_s=50, errors=0.1).told(), Pair)
    verdict = judge(history, script)

    write_report(history, script, verdict, tmp_path)

    suite = ET.parse(tmp_path / "report.xml").getroot()
    assert len(suite.findall(".//failure")) == int(suite.get("failures", "")) > 1
    assert len(suite.findall(".//skipped")) == int(suite.get("skipped", "")) > 1


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_labels_of_faults_never_meet(size: object) -> None:
    assert size in {WIDE, NARROW}
    left, right = (WIDE if size is WIDE else NARROW).left, (WIDE if size is WIDE else NARROW).right
    spans = [(left + 10.0 * at, left + 10.0 * at + 30) for at in range(12)]
    widths = [LETTER * 20.0] * 12

    placed = lanes(spans, widths, least=left, most=right)

    for one, (lane, begin) in enumerate(placed):
        assert left <= begin
        assert begin + widths[one] <= right
        for other_lane, other in placed[:one]:
            assert lane != other_lane or abs(begin - other) >= widths[one]


def test_axes_have_round_ticks() -> None:
    assert ticks(0, 65, most=5) == [0, 20, 40, 60]
    assert ticks(0, 0.25, most=5) == [0, 0.05, 0.1, 0.15, 0.2, 0.25]
    assert decades(0.4, 60) == (0.1, 100.0, [0.1, 1.0, 10.0, 100.0])


def test_the_colours_of_origins_differ_for_every_eye() -> None:
    """Distance in CIELAB as normal, deutan, protan and tritan eyes see them. After Machado et al., 2009."""
    style = files("featurechaos.drills").joinpath("page.css").read_text()
    themes = [re.findall(r"--[A-Z_]+: (#[0-9a-f]{6})", part) for part in style.split("prefers-color-scheme: dark")]

    for colours in themes:
        assert len(colours) == 6
        for eye in EYES:
            seen = [lab(np.array(eye) @ linear(colour)) for colour in colours]
            assert min(float(np.linalg.norm(one - other)) for one, other in combinations(seen, 2)) > 12


EYES = [
    np.eye(3).tolist(),
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
]


def linear(colour: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
