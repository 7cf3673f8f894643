"""What all tests share: the options of `tests/run`, and fixtures from the packages that own them.

A test needs the lab or etcd if it asks for their fixture, or says so by the marker. Such a test that cannot
run is skipped and named at the end; under `--require` it fails instead, and so does a whole run in which
no test of a required kind was left. Tests marked `long` are left out unless `--long` is given.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

# Loops made from here on check that they are only called from their own thread (drivers have threads).
os.environ.setdefault("PYTHONASYNCIODEBUG", "1")

# How long an example takes says more of what else this machine does than of the code.
SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The run of every change draws the same examples each time, so that what fails in it came with the change.
# Chance has its turn in the long run.
settings.register_profile("same", SHARED, derandomize=True)
settings.register_profile("fresh", SHARED)

pytest_plugins = ["tests.lab.fixture"]

KINDS = ("lab", "etcd")
_REQUIRED = pytest.StashKey[frozenset[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("domctl")
    group.addoption("--require", default="none", help="lab,etcd: tests of these kinds must be able to run")
    group.addoption("--long", action="store_true", help="also run the tests marked long")
    group.addoption("--regold", action="store_true", help="write golden files as seen; read the difference")


def pytest_configure(config: pytest.Config) -> None:
    # A shell that runs the tests in the background has interrupts ignored, and so had all that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.load_profile("fresh" if config.getoption("--long") else "same")
    asked = config.getoption("--require")
    required = frozenset() if asked == "none" else frozenset(asked.split(","))
    if unknown := required.difference(KINDS):
        raise pytest.UsageError(f"--require knows {', '.join(KINDS)}, not {', '.join(sorted(unknown))}")
    config.stash[_REQUIRED] = required


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for kind in KINDS:
            if kind in getattr(item, "fixturenames", ()):
                item.add_marker(kind)
    if not config.getoption("--long"):
        left_out = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    missing = [kind for kind in item.config.stash[_REQUIRED] if item.get_closest_marker(kind)]
    if report.skipped and missing:
        report.outcome = "failed"
        report.longrepr = f"skipped under --require {','.join(sorted(missing))}: {_reason(report)}"
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A whole run without a test of a required kind proves nothing. Reports tell: workers have collected."""
    config = session.config
    narrowed = config.getoption("keyword") or config.getoption("markexpr") or config.getoption("collectonly")
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if narrowed or reporter is None or config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    reports = [report for found in reporter.stats.values() for report in found if hasattr(report, "keywords")]
    required = config.stash[_REQUIRED]
    for kind in sorted(required):
        if not any(kind in report.keywords for report in reports):
            reporter.write_line(f"--require {kind}: there was no such test", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    terminalreporter.section(f"NOT RUN: {len(skipped)} tests", sep="!", red=True)
    reasons = [_reason(report) for report in skipped]
    for reason in sorted(set(reasons), key=lambda r: (-reasons.count(r), r)):
        terminalreporter.line(f"{reasons.count(reason):5} {reason}")


def _reason(report: pytest.TestReport) -> str:
    place = report.longrepr
    return str(place[2] if isinstance(place, tuple) else place).removeprefix("Skipped: ")
