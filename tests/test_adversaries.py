"""What adversaries of verdicts share: the list of what they tried, and their networks."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from adversaries import SEEDS, accuracy, data, drawn, numbers, spread, trained

from companion.training import sgd, train

TRIES = """
import pytest


@pytest.mark.claim("B2")
@pytest.mark.parametrize("rate", [0.3, 0.1])
def test_it(rate, tried):
    tried("all of 6 hold", rate=rate, depth=4)


@pytest.mark.claim("B1")
def test_another(tried):
    tried("none holds", width=3)
    assert False
"""


@pytest.mark.parametrize("workers", [[], ["-p", "xdist", "-n", "2"]])
def test_what_was_tried_is_listed_by_claim_also_where_it_failed(
    tmp_path: Path, workers: list[str]
) -> None:
    shutil.copy(Path(__file__).parent / "verdicts" / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = claim: of it\n")
    (tmp_path / "test_tries.py").write_text(TRIES)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *workers, "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    first = lines.index(next(line for line in lines if "what the adversaries tried" in line))
    assert lines[first + 1 : first + 4] == [
        "B1  width 3: none holds",
        "B2  rate 0.1, depth 4: all of 6 hold",
        "B2  rate 0.3, depth 4: all of 6 hold",
    ]


def test_they_descend_as_the_companions_loop_does() -> None:
    from companion.backprop import to_modules

    network = drawn("tanh", 1.0, 3, width=8)
    before, models = accuracy(network), to_modules(network.map(torch.clone))
    seen = trained(network, rate=0.3, steps=40, batch=64)
    assert seen.loss.shape == seen.gradient.shape == seen.gain.shape == (40, len(SEEDS))
    record = train(
        models,
        data(),
        optimizer=sgd(0.3),
        steps=40,
        batch_size=64,
        seed=[seed + 7 for seed in SEEDS],
        progress=False,
    )
    assert (accuracy(network) > before + 0.3).all()
    torch.testing.assert_close(seen.loss[0], record.loss[0], rtol=0.2, atol=0)
    torch.testing.assert_close(accuracy(network), record.test_accuracy[-1], rtol=0, atol=0.15)


def test_words() -> None:
    assert spread(torch.tensor([0.125, 3.0])) == "0.12 to 3"
    assert numbers(torch.tensor([[0.125, 3.0]]), 1) == "0.1 3.0"
