"""Report on a saved log: ``python -m companion.diagnosis run.json [target loss]``."""

import argparse
import sys
from collections.abc import Sequence

from companion.diagnosis.rules import diagnose
from companion.monitor.log import Log


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is wrong with a run, and return the exit code: 2 where its log cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m companion.diagnosis", description="What is wrong with a run, and why."
    )
    parser.add_argument("log", metavar="run.json", help="what GradientMonitor.to_json wrote")
    parser.add_argument(
        "target", type=float, nargs="?", metavar="target loss", help="which loss counts as learned"
    )
    given = parser.parse_args(arguments)
    try:
        found = diagnose(Log.from_json(given.log), given.target)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{found}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
