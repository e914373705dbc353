"""What holds for every test run: the README's examples are tests, and in CI a skipped test is a failure."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.integration.pytest import SybilItem
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

pytest_plugins = ["pytester"]


def write_yaml(example: Example) -> None:
    """A YAML block that begins with `# NAME.yaml` is that file for the Python blocks after it."""
    first, _, _ = str(example.parsed).partition("\n")
    if first.startswith("# ") and first.endswith(".yaml"):
        Path(first.removeprefix("# ")).write_text(str(example.parsed), encoding="utf-8")


def enter_folder(namespace: dict[str, Any]) -> None:
    """Run a document's examples in a folder of their own."""
    namespace["folder"], namespace["came_from"] = tempfile.TemporaryDirectory(), Path.cwd()
    os.chdir(namespace["folder"].name)


def leave_folder(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["came_from"])
    namespace["folder"].cleanup()


pytest_collect_file = Sybil(
    parsers=[CodeBlockParser("yaml", write_yaml), PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md"],
    setup=enter_folder,
    teardown=leave_folder,
).pytest()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Examples of one document build on each other: take them in its order, whatever the rest does."""
    examples = [item for item in items if isinstance(item, SybilItem)]
    examples.sort(key=lambda item: (item.path, item.example.start))
    items[:] = [item for item in items if not isinstance(item, SybilItem)] + list(examples)


def is_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("true", "1")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that did not run has shown nothing, so where it counts, it failed. Expected failures ran."""
    report = yield
    if is_ci() and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped with CI=true: {reason_of(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself."""
    report = yield
    if is_ci() and report.skipped:
        report.outcome, report.longrepr = "failed", f"skipped with CI=true: {reason_of(report)}"
    return report


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return str(report.longrepr)
