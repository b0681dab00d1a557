"""What every test runs under, also when pytest is called by hand instead of through make."""

import os
import sys
from collections import Counter

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.pop("MPLBACKEND", None)  # with another one the chapters' kernels show no figure

import matplotlib as mpl
import pytest

# Not through the environment, from which the chapters' kernels would take it as well.
mpl.use("agg")


def pytest_configure() -> None:
    """Refuse to start where every seed stands for another one: no stored number would come out."""
    if os.environ.get("COURSE_REPETITION"):
        raise pytest.UsageError(
            "COURSE_REPETITION is set, which redraws all that is random; unset it to run the tests"
        )


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Draw the same from torch's own generator in each test, whatever ran before it."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end what was skipped and why, a line for each reason."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    terminalreporter.section("skipped" if reasons else "nothing was skipped", sep="-")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count} skipped: {reason}")
