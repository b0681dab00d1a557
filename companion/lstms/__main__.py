"""Run the longer race of the chapter and store its table: ``python -m companion.lstms FILE``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from companion.lstms.tasks import longer_run


def main(arguments: Sequence[str] | None = None) -> None:
    """Race the five architectures on all three tasks, and write down what came out."""
    parser = argparse.ArgumentParser(prog="python -m companion.lstms", description=main.__doc__)
    parser.add_argument("file", type=Path, help="where to write the table")
    file = parser.parse_args(arguments).file
    file.write_text(longer_run(), encoding="utf-8")


if __name__ == "__main__":
    main()
