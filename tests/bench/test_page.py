"""The page of a bench: it fetches nothing, shows its pictures in both sizes, and says what the verdict says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from featurechaos.bench.cold import Cold
from featurechaos.bench.figures import Figures
from featurechaos.bench.plots import plots
from featurechaos.bench.report import clear, write_report
from featurechaos.bench.verdict import judge
from tests.bench.stories import FROZEN, Story
from tests.drills.test_report import Page

COLD = {
    "before": Cold(first_s=0.8, good_s=0.8, good_origins={"PRIMARY": 1}, has_local=True, whole_s=1.5),
    "during": Cold(first_s=0.8, first_origins={"DEFAULT": 1}, looked_s=30.0, has_local=True),
}


def written(story: Story, folder: Path) -> str:
    figures = Figures.of(story.record())
    return write_report(figures, judge(figures), folder).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "story",
    [
        Story(cold=COLD, opened_s=2.0),
        Story(is_broken=False),
        Story(failed=4, late=9),
        Story(rate_per_s=1, back_s=None),
        Story(reason="", states=("armed", "applied")),
        Story(ends_s=12.0),
        Story(ends_s=5.0),
        Story(ends_s=0.0),
    ],
)
def test_nothing_is_fetched_and_every_tag_is_closed(story: Story, tmp_path: Path) -> None:
    text = written(story, tmp_path)

    page = Page(text)

    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert not re.findall(r"url\(|@import|javascript:|<script|<link|<iframe|<img", text)
    assert not re.findall(r"\bnan\b|\binf\b", text)
    kinds = [str(attrs["class"]) for attrs in page.named("svg")]
    drawn = 3 if story.ends_s else 0
    assert sorted(kinds) == ["plot narrow"] * drawn + ["plot wide"] * drawn
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in page.named("svg"))


def test_it_answers_what_users_feel(tmp_path: Path) -> None:
    text = written(Story(cold=COLD, opened_s=2.0), tmp_path)

    assert "deadline 50\N{NO-BREAK SPACE}ms)" in text, "no line ends between a number and its unit"
    text = unescape(text).replace("\N{NO-BREAK SPACE}", " ")
    assert "<h1>What users feel while primary is frozen</h1>" in text
    assert "99 % of rows came from a snapshot 3 h old and 1 % from defaults" in text
    assert text.count(">deadline 50 ms<") == 4, "a line in both plots of latency, in both sizes"
    assert text.count(">breaker opens, +2 s<") == 2
    assert text.count("PRIMARY again, +3") == 2
    assert text.count('class="fault"') == 2
    assert "not within 30 s" in text
    assert "0 later than 60 ms, 0 failed of 500" in text


@pytest.mark.parametrize(
    ("states", "wide", "narrow"),
    [
        (["frozen"], "feature-store frozen", "frozen"),
        (["frozen", "12 ms slower"], "feature-store frozen and feature-store 12 ms slower", "broken"),
    ],
)
def test_what_was_broken_is_named_in_as_many_words_as_fit(states: list[str], wide: str, narrow: str) -> None:
    record = Story().record()
    broken = tuple(replace(FROZEN, source="feature-store", state=state) for state in states)
    figures = Figures.of(replace(record, asked=replace(record.asked, broken=broken)))

    drawn = next(iter(plots(figures)))

    heads = [re.findall(r'class="head[^"]*"[^>]*>([^<]*)<', each) for each in (drawn.wide, drawn.narrow)]
    assert heads == [["before", wide, "after"], ["before", narrow, "after"]]


@pytest.mark.parametrize("deadline_s", [0.03, 0.05, 0.1, 1.0])
def test_the_name_of_the_deadline_and_the_word_of_the_return_do_not_touch(deadline_s: float) -> None:
    drawn = next(iter(plots(Figures.of(Story(deadline_s=deadline_s).record()))))

    for each in (drawn.wide, drawn.narrow):
        heights = [
            float(re.findall(rf'<text x="[^"]*" y="([^"]*)"[^>]*>{word}', each)[0])
            for word in ("deadline", "PRIMARY again")
        ]
        assert abs(heights[0] - heights[1]) >= 14


def test_a_source_that_does_not_come_back_was_waited_for_so_long(tmp_path: Path) -> None:
    text = written(Story(fault="process_kill", back_s=None), tmp_path).replace("\N{NO-BREAK SPACE}", " ")

    assert '>not seen</dd><dd class="small">within 10 s of the end of the fault, for good<' in text


def test_dots_are_of_their_origin_and_none_is_left_out_that_could_be_seen(tmp_path: Path) -> None:
    text = written(Story(late=1), tmp_path)

    wide = text.partition('class="plot narrow"')[0]
    found = {name: path for path, name in re.findall(r'<path d="([^"]*)" class="many o-(\w+)">', wide)}

    assert set(found) == {"PRIMARY", "SNAPSHOT"}
    assert all(path.count("M") > 100 for path in found.values()), "500 and more requests, at most two to a pixel"
    heights = [float(y) for _, y in re.findall(r"M([\d.]+) ([\d.]+)h0", found["SNAPSHOT"])]
    assert len([y for y in heights if y < min(heights) + 20]) == 1, "the one late answer stands alone, above the rest"


def test_the_numbers_are_beside_the_page_and_an_old_report_goes(tmp_path: Path) -> None:
    written(Story(), tmp_path)
    (tmp_path / "history.jsonl").touch()

    told = json.loads((tmp_path / "bench.json").read_text())
    assert (told["outcome"], told["exit_code"], told["phases"]["during"]["requests"]) == ("held", 0, 500)
    assert told["said"][1].startswith("While primary was frozen: 99 of 100 answers within 12 ms")

    clear(tmp_path)
    assert list(tmp_path.iterdir()) == []
