"""What an attack was answered with, for the table of `make attacks`."""

from collections.abc import Callable

import pytest

_PROPERTY = "attack"
Measured = Callable[[str, str, str], None]
"""(attack, what was measured, bound)."""


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """Note a row of the table: what was done, what was measured, and what the test demands."""

    def note(attack: str, value: str, bound: str) -> None:
        request.node.user_properties.append((_PROPERTY, (attack, value, bound)))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = [
        ("ok" if report.passed else "FAILED", *value)
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == _PROPERTY
    ]
    if not rows or not terminalreporter.config.option.markexpr.startswith("attacks"):
        return
    header = ("", "attack", "measured", "bound")
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    terminalreporter.section("attacks")
    for row in (header, *rows):
        terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
