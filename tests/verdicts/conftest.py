"""What an adversary tried is told at the end of a run: the settings, and what came of each."""

from collections.abc import Callable

import pytest


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Keep a setting and its outcome: `tried("7 of 8 stand still", rate=0.3, depth=20)`."""

    def tell(outcome: str, **settings: object) -> None:
        words = ", ".join(f"{name} {value}" for name, value in settings.items())
        claim = request.node.get_closest_marker("claim").args[0]
        request.node.user_properties.append(("tried", f"{claim}  {words}: {outcome}"))

    return tell


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what was tried, claim by claim."""
    stats = terminalreporter.stats
    reports = [each for key in ("passed", "failed") for each in stats.get(key, [])]
    told = [value for each in reports for key, value in each.user_properties if key == "tried"]
    if told:
        terminalreporter.section("what the adversaries tried")
    for line in sorted(told):
        terminalreporter.line(line)
