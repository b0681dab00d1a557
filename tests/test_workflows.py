"""The workflows ask for little, and pin what they run."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from chapters import ROOT
from colab_versions import PYTHON

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_to_commits_with_their_tag(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        if "uses:" in line:
            assert re.search(r"uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_permissions_are_given_job_by_job(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert "permissions" in job, name
        assert "timeout-minutes" in job, name


def jobs(workflow: str) -> dict[str, dict[str, Any]]:
    text = (ROOT / ".github" / "workflows" / f"{workflow}.yml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["jobs"]


def test_the_weekly_jobs_are_what_make_check_all_runs() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (checks,) = re.findall(r"^CHECKS := (.*)$", makefile, re.MULTILINE)
    (draws,) = re.findall(r"\$\(CHECKS\) DRAWS=(\S+)$", makefile, re.MULTILINE)
    matrix = jobs("weekly")["whole"]["strategy"]["matrix"]
    included = matrix["include"]
    assert sorted({*matrix["check"], *(each["check"] for each in included)}) == sorted(
        checks.split()
    )
    assert {each["check"] for each in included} == {"test-rounding"}
    assert ",".join(each["draws"] for each in included) == draws


def test_a_weekly_job_that_fails_is_reported() -> None:
    others = jobs("weekly")
    report = others.pop("report")
    assert sorted(report["needs"]) == sorted(others)


def test_colab_is_tried_with_its_python_and_its_torch() -> None:
    *_, set_up, run = jobs("tests")["colab"]["steps"]
    assert set_up["with"]["python-version"] == ".".join(PYTHON.split(".")[:2])
    assert "TORCH=colab" in run["run"]


def test_zizmor_finds_nothing() -> None:
    zizmor = shutil.which("zizmor", path=str(Path(sys.executable).parent)) or shutil.which("zizmor")
    if zizmor is None:
        pytest.skip("zizmor is not installed")
    done = subprocess.run(
        [zizmor, "--offline", "--no-progress", "--persona", "pedantic", str(ROOT / ".github")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


@pytest.mark.parametrize("path", [p for p in FORMS if p.stem != "config"], ids=lambda p: p.stem)
def test_an_issue_form_is_one_that_github_takes(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form.keys() >= {"name", "description", "body"}
    assert len({field["id"] for field in form["body"]}) == len(form["body"])
    for field in form["body"]:
        assert field["type"] in ("input", "textarea")
        assert field["attributes"]["label"]
    assert any(field.get("validations", {}).get("required") for field in form["body"])
