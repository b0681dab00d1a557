"""Lighthouse's mobile audit of the heaviest chapter: `python book/_tools/lighthouse.py`.

The built book is served compressed on this machine, and audited three times: the performance is the
middle one, since whatever else the machine does counts as slowness of the page. Needs node and a
Chromium; `make lighthouse` installs Lighthouse itself.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

from chapters import ROOT, chapter_files
from serve import SITE, server

TOOL = ROOT / "_build" / "lighthouse" / "node_modules" / ".bin" / "lighthouse"
FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-quic --disable-background-networking"
TARGETS = {"performance": 95, "accessibility": 100, "best-practices": 100, "seo": 100}
RUNS = 3
SHOWN = ("largest-contentful-paint", "total-blocking-time", "cumulative-layout-shift")


def heaviest() -> str:
    """Return the chapter whose page is the largest file."""
    names = [f"{path.stem}.html" for path in chapter_files()]
    return max(names, key=lambda name: (SITE / name).stat().st_size)


def audit(page: str) -> dict[str, Any]:
    """Return Lighthouse's report of a page."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    chromium = next(filter(None, found), None)
    if chromium is None:
        sys.exit("There is no Chromium on this machine. On Debian and Ubuntu: apt install chromium")
    report = TOOL.parents[2] / "report.json"
    with server() as running:
        Thread(target=running.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{running.server_port}/{page}"
        command = [str(TOOL), address, "--quiet", "--output=json", f"--output-path={report}"]
        subprocess.run(
            [*command, f"--chrome-flags={FLAGS}"],
            check=True,
            timeout=300,
            env=os.environ | {"CHROME_PATH": chromium},
        )
        running.shutdown()
    return json.loads(Path(report).read_text("utf-8"))


def performance(report: dict[str, Any]) -> float:
    """Return the performance score of a report, from 0 to 1."""
    return report["categories"]["performance"]["score"]


def pictures(page: str) -> set[str]:
    """Return the files of a page's figures and of its sliders' pictures."""
    return set(re.findall(r"_images/[\w.-]+", (SITE / page).read_text("utf-8")))


def main() -> int:
    """Print the figures; return 1 if a target is missed."""
    page = heaviest()
    reports = sorted((audit(page) for _ in range(RUNS)), key=performance)
    report = reports[RUNS // 2]
    scores = {name: round(100 * report["categories"][name]["score"]) for name in TARGETS}
    requests = report["audits"]["network-requests"]["details"]["items"]
    sizes = {item["url"]: item.get("transferSize", 0) for item in requests}
    figures = {name: (SITE / name).stat().st_size for name in pictures(page)}
    print(f"{page}, Lighthouse {report['lighthouseVersion']}, mobile, middle of {RUNS} runs")
    for name, score in scores.items():
        print(f"  {name:<16} {score:>3}  (at least {TARGETS[name]})")
    print("  performance of each run:", *(round(100 * performance(each)) for each in reports))
    for name in SHOWN:
        print(f"  {name}: {report['audits'][name]['displayValue']}")
    print(
        f"  {len(requests)} requests, {sum(sizes.values())} bytes before the figures come to view"
    )
    print(f"  {len(figures)} figures and slider pictures, {sum(figures.values())} bytes")
    return int(any(scores[name] < target for name, target in TARGETS.items()))


if __name__ == "__main__":
    sys.exit(main())
