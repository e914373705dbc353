"""The rules of the house that no linter knows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "redis",
    "hiredis",
    "boto3",
    "botocore",
    "pyarrow",
    "moto",
    "pandas",
    "sklearn",
    "matplotlib",
    "typer",
)
MACHINE = re.compile(r"(?<![\w.-])/(?:work|root|home|Users)/\w")
CODES = re.compile(r"[=!]= ?\(?(?:Origin|Status|Cause|Verdict|Action)\.")
REGISTRY = re.compile(r"https?://[^\s\"')]*(?:pypi|pythonhosted|npmjs)\.\w+")


def tracked(root: Path) -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True, text=True).stdout
    return [root / name for name in names.split("\0") if name and (root / name).is_file()]


def lines_with(pattern: re.Pattern[str], files: list[Path]) -> list[str]:
    found = []
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.name}:{k}: {line.strip()}" for k, line in enumerate(text.splitlines(), 1) if pattern.search(line)
        ]
    return found


def targets(root: Path) -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (root / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (CODES, "gone = verdict == Verdict.BURIED"),
        (MACHINE, "cd " + "/ho" + "me/ann"),
        (MACHINE, '"' + "/ro" + 'ot/x"'),
        (REGISTRY, "https://" + "pypi" + ".org/simple"),
    ],
)
def test_the_search_finds_what_it_is_for(tmp_path: Path, pattern: re.Pattern[str], line: str) -> None:
    (tmp_path / "file.md").write_text(f"fine\n{line}\n")

    assert lines_with(pattern, [tmp_path / "file.md"]) == [f"file.md:2: {line}"]


def test_no_file_holds_a_path_of_one_machine(root: Path) -> None:
    assert lines_with(MACHINE, tracked(root)) == []


def test_no_file_holds_the_address_of_a_package_registry(root: Path) -> None:
    assert lines_with(REGISTRY, tracked(root)) == []


def test_no_read_compares_an_array_with_an_enum(root: Path) -> None:
    """Numpy takes several times as long for it as for a plain int: half of what a degraded read costs."""
    package = root / "featurechaos"
    on_the_path = [package / "readings.py", package / "observing.py", *package.glob("layers/*.py")]

    assert len(on_the_path) > 10
    assert lines_with(CODES, on_the_path) == []


def test_pins_are_plain(root: Path) -> None:
    plain = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9._!+]+")

    for name in ("constraints.txt", "constraints-low.txt"):
        odd = [
            line
            for line in (root / name).read_text().splitlines()
            if not line.startswith("#") and not plain.fullmatch(line)
        ]
        assert odd == [], name


def test_importing_featurechaos_loads_no_driver() -> None:
    loaded = f"[name for name in {HEAVY!r} if name in sys.modules]"
    code = f"import sys; from featurechaos import FeatureClient; print({loaded})"

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout

    assert printed == "[]\n"


def test_the_changelog_has_a_place_for_the_next_change(root: Path) -> None:
    headings = re.findall(r"^## (.+)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert headings[0] == "Unreleased"


def test_every_target_named_in_the_docs_is_there(root: Path) -> None:
    there = targets(root)

    for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md"):
        if (root / name).exists():
            named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", (root / name).read_text(), re.MULTILINE))
            assert named <= there, name


def test_every_target_says_what_it_does(root: Path) -> None:
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=root, capture_output=True, check=True, text=True
    ).stdout

    assert {line.split()[0] for line in listed.splitlines()} == targets(root)


def test_ci_runs_the_commands_of_the_readme(root: Path) -> None:
    lines = (root / ".ci" / "run").read_text().splitlines()

    assert {"set -euo pipefail", "export CI=true", "make test", "make check"} <= set(lines)


SKIPS = {
    "test": "import pytest\n\n@pytest.mark.skip(reason='no server')\ndef test_one(): ...\n",
    "inside": "import pytest\n\ndef test_one(): pytest.skip('no server')\n",
    "fixture": "import pytest\n\n@pytest.fixture\ndef a(): pytest.skip('no server')\n\ndef test_one(a): 1\n",
    "module": "import pytest\n\npytest.importorskip('no_server')\n\ndef test_one(): ...\n",
}


@pytest.fixture
def house(root: Path, pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder whose runs obey our own conftest."""
    pytester.makeconftest((root / "conftest.py").read_text())
    return pytester


def test_a_skip_fails_the_run_in_ci(house: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    house.makepyfile(**{f"test_{place}": text for place, text in SKIPS.items()})
    monkeypatch.setenv("CI", "true")

    result = house.runpytest_subprocess("--continue-on-collection-errors")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1, errors=3)
    for reason in ("no server", "could not import 'no_server'"):
        result.stdout.fnmatch_lines([f"*skipped with CI=true: {reason}*"])


def test_a_skip_is_a_skip_elsewhere(house: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    house.makepyfile(**{f"test_{place}": text for place, text in SKIPS.items()})
    monkeypatch.delenv("CI", raising=False)

    result = house.runpytest_subprocess()

    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(skipped=4)


def test_an_expected_failure_is_no_skip(house: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    house.makepyfile("import pytest\n\n@pytest.mark.xfail(strict=True)\ndef test_one(): assert False\n")
    monkeypatch.setenv("CI", "true")

    result = house.runpytest_subprocess()

    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(xfailed=1)


README = """
```yaml
# one.yaml
answer: 42
```

```python
from pathlib import Path
text = Path("one.yaml").read_text()
```

```python
assert {claim}
```
"""


def test_the_readme_runs_in_its_order_beside_its_own_files(house: pytest.Pytester) -> None:
    (house.path / "README.md").write_text(README.format(claim="'answer: 42' in text"))

    result = house.runpytest_subprocess("--randomly-seed=3", "README.md")

    result.assert_outcomes(passed=3)
    assert not (house.path / "one.yaml").exists()


def test_a_wrong_claim_in_the_readme_fails(house: pytest.Pytester) -> None:
    (house.path / "README.md").write_text(README.format(claim="'answer: 43' in text"))

    result = house.runpytest_subprocess("README.md")

    result.assert_outcomes(passed=2, failed=1)
