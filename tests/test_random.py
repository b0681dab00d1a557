"""Draws: networks that do not depend on how many are drawn, and one number that redraws all."""

import ast
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from companion import (
    activations,
    backprop,
    data,
    deep_linear,
    jacobian,
    lstms,
    meanfield,
    normalization,
    phase,
    products,
    propagation,
    residuals,
    shattering,
    training,
    transformers,
)
from companion._lib import random

ROOT = Path(__file__).parent.parent


@pytest.mark.breaks("companion/_lib/random.py", "own = seed + STREAMS[stream]", "own = seed")
def test_without_a_repetition_a_seed_is_itself_and_streams_lie_apart() -> None:
    assert random.REPETITION is None
    assert random.mixed(5) == 5
    assert random.mixed(5, "inputs") == 5 + 2**31
    assert random.mixed(5, "batches") == 5 + 3 * 2**30
    ours, theirs = random.generator(5, "inputs"), torch.Generator().manual_seed(5 + 2**31)
    assert torch.equal(torch.rand(9, generator=ours), torch.rand(9, generator=theirs))


@pytest.mark.breaks("companion/_lib/random.py", "3 * 2**30", "2**32")
def test_the_draws_of_streams_and_seeds_differ_and_not_only_their_numbers() -> None:
    """torch takes 32 bits of a seed."""
    pairs = [(seed, stream) for seed in (0, 1, 7, 1000) for stream in random.STREAMS]
    drawn = torch.stack([torch.rand(8, generator=random.generator(*pair)) for pair in pairs])
    assert len(drawn.unique(dim=0)) == len(pairs)


@pytest.mark.breaks("companion/_lib/random.py", 'f"{own} {repetition}"', 'f"{own}"')
@pytest.mark.breaks("companion/_lib/random.py", 'f"{own} {repetition}"', 'f"{own}{repetition}"')
def test_a_repetition_gives_every_seed_and_stream_another_one() -> None:
    own = int.from_bytes(hashlib.sha256(b"2147483651 7").digest()[:8], "big") // 2
    assert random.mixed(3, "inputs", repetition=7) == own
    assert random.mixed(3 + 2**31, repetition=7) == own  # as without: the same draws stay the same
    found = {
        random.mixed(seed, stream, repetition=number)
        for seed in range(200)
        for stream in random.STREAMS
        for number in range(120)
    }
    assert len(found) == 200 * len(random.STREAMS) * 120
    assert min(found) >= 0
    assert max(found) < 2**63


@pytest.mark.breaks("companion/_lib/random.py", "own.normal_", "drawn.normal_")
def test_normal_draws_are_those_of_each_generator_alone() -> None:
    drawn = random.normal(random.generators([4, 9]), 3, 5)
    alone = [torch.Generator().manual_seed(seed) for seed in (4, 9)]
    each = [torch.randn(3, 5, generator=g, dtype=torch.float64) for g in alone]
    assert torch.equal(drawn, torch.stack(each))


@pytest.mark.breaks("companion/_lib/random.py", "randint(count, (size,)", "randint(size, (size,)")
def test_rows_are_those_of_each_generator_alone() -> None:
    drawn = random.rows(random.generators([4, 9]), 1000, 6)
    alone = [torch.Generator().manual_seed(seed) for seed in (4, 9)]
    assert torch.equal(drawn, torch.stack([torch.randint(1000, (6,), generator=g) for g in alone]))


NOISY = """
import torch
from companion import backprop, data
print(float(backprop.random_mlp([3, 3], "relu").weights[0][0, 0, 0]))
print(float(data.normal(1, seed=0)))
data.manual_seed(0)
print(float(torch.rand(1)))
print(data.digits().test_targets[:20].tolist())
"""


def printed(repetition: str | None) -> list[str]:
    environment = {k: v for k, v in os.environ.items() if k != random.VARIABLE}
    if repetition is not None:
        environment[random.VARIABLE] = repetition
    ran = subprocess.run(
        [sys.executable, "-c", NOISY],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.stdout.splitlines() or [ran.stderr.splitlines()[-1]]


@pytest.mark.breaks("companion/data/sets.py", "random_state=state", "random_state=seed")
@pytest.mark.breaks("companion/data/draws.py", "random.mixed(seed)", "seed")
def test_one_number_redraws_weights_data_and_split() -> None:
    plain, first, again, second = map(printed, (None, "1", "1", "2"))
    assert first == again
    for mine, others in ((first, plain), (second, plain), (first, second)):
        assert len(mine) == 4
        assert all(line != other for line, other in zip(mine, others, strict=True))


@pytest.mark.parametrize("text", ["-1", "1.5", "two", "٣", " "])
@pytest.mark.breaks("companion/_lib/random.py", "text.isascii() and ", "")
def test_a_repetition_needs_a_whole_number(text: str) -> None:
    with pytest.raises(ValueError, match=r"COURSE_REPETITION must be a whole number .* got '"):
        random.repetition_number(text)


def test_a_repetition_is_off_without_a_number_and_has_a_number_zero() -> None:
    found = [random.repetition_number(text) for text in (None, "", "0", "12")]
    assert found == [None, None, 0, 12]


def test_a_test_run_refuses_to_start_in_a_repetition() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", __file__],
        env=os.environ | {random.VARIABLE: "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
    assert "COURSE_REPETITION" in ran.stderr


# ---------------------------------------------------------------- one network more

Drawing = Callable[[int], Tensor]
SMALL = data.Split(
    data.normal(12, 3, seed=0).double(),
    torch.arange(12) % 2,
    data.normal(4, 3, seed=1).double(),
    torch.arange(4) % 2,
)


def trained(networks: int) -> Tensor:
    models = backprop.to_modules(backprop.random_mlp([3, 4, 2], "tanh", seeds=networks))
    options = {"steps": 3, "batch_size": 4, "optimizer": training.sgd(0.1), "progress": False}
    return training.train(models, SMALL, **options).loss.T


def carried(networks: int) -> Tensor:
    return products.log_growth(torch.eye(3).expand(networks, 2, 3, 3) * torch.arange(1, 4))


def landscapes(networks: int) -> Tensor:
    models = normalization.landscape.networks([3, 4, 2], seeds=networks)
    options = {"step_sizes": [0.1], "learning_rate": 0.1, "steps": 3, "batch_size": 4}
    return normalization.landscape.landscapes(models, SMALL, measure_every=1, **options).loss.T


def walked(networks: int) -> Tensor:
    network = propagation.random_network([3, 4, 2], "tanh", "glorot_normal", seeds=networks)
    options = {"learning_rate": 0.1, "steps": 3, "record_every": 1, "batch_size": 4}
    path = propagation.activation_path(network, SMALL, progress=False, **options)
    return path.means.transpose(0, 1)


RNN = {"hidden": 3, "steps": 2, "batch_size": 2, "progress": False}
DRAWINGS: dict[str, Drawing] = {
    "random_mlp": lambda n: backprop.random_mlp([3, 4], "relu", seeds=n).weights[0],
    "backprop.gradient_flow": lambda n: backprop.gradient_flow(
        [backprop.Setting("relu", 2.0, "")], width=5, depth=3, seeds=n
    )[0],
    "gaussian_factors": lambda n: products.gaussian_factors(3, 2, seeds=n),
    "rotations": lambda n: products.rotations(3, 2, seeds=n),
    "factors_with_singular_values": lambda n: products.factors_with_singular_values(
        [2.0, 1.0], 2, seeds=n
    ),
    "log_growth": carried,
    "random_network": lambda n: propagation.random_network(
        [3, 4], "relu", "orthogonal", seeds=n
    ).weights[0],
    "measured_variance": lambda n: (
        propagation.measured_variance([3, 4, 2], "relu", "he_normal", seeds=n).deltas
    ),
    "activation_path": walked,
    "measured_moments": lambda n: (
        meanfield.measured_moments("selu", depth=2, width=5, seeds=n).variance
    ),
    "gradient_correlation": lambda n: shattering.gradient_correlation(
        [1, 2], width=8, examples=4, compared=2, seeds=n
    ),
    "born_dead": lambda n: activations.born_dead(2, 6, seeds=n),
    "spectra": lambda n: jacobian.spectra(width=4, depth=2, seeds=n).transpose(0, 1),
    "trainability": lambda n: phase.trainability(
        "tanh",
        [1.0, 2.0],
        [2, 3],
        width=4,
        seeds=n,
        bias_variance=0.1,
        data=SMALL,
        steps=2,
        batch_size=4,
        progress=False,
    ).values.movedim(-1, 0),
    "explosion.gradient_flow": lambda n: normalization.explosion.gradient_flow(
        "batch", width=5, depth=3, batch_size=4, seeds=n
    ),
    "landscapes": landscapes,
    "residuals.flow": lambda n: (
        residuals.flow(residuals.Design("residual", depth=2, width=4), seeds=n).mean_squares
    ),
    "transformers.distance_flow": lambda n: transformers.distance_flow(
        transformers.Design("pre", layers=1, width=4), tokens=3, seeds=n
    ),
    "transformers.flow": lambda n: (
        transformers.flow(transformers.Design("pre", layers=1, width=4), seeds=n).mean_squares
    ),
    "amplification": lambda n: transformers.amplification(
        transformers.Design("pre", layers=1, width=4), seeds=n
    ),
    "first_step": lambda n: transformers.first_step(
        transformers.Design("pre", layers=1, width=4), SMALL, learning_rate=0.1, tokens=3, seeds=n
    ),
    "coordinate_check": lambda n: (
        transformers.coordinate_check(
            lambda width, seeds: backprop.classifiers(
                "tanh", 1.0, 2, width=width, inputs=3, outputs=2, seeds=seeds
            ),
            SMALL,
            widths=[4, 8],
            learning_rate=0.1,
            seeds=n,
        ).changes
    ),
    "log_gradients": lambda n: propagation.log_gradients([3, 4, 2], "tanh", "he_normal", seeds=n),
    "steps_to_learn": lambda n: (
        deep_linear.steps_to_learn(
            "gaussian", 2, learning_rates=[0.05, 0.1, 0.2, 0.4], seeds=n, steps=99, progress=False
        ).T
    ),
    "degradation": lambda n: residuals.degradation(
        [4], ["residual"], data=SMALL, width=4, steps=2, batch_size=4, seeds=n, progress=False
    ).loss[0, 0],
    "classifiers": lambda n: torch.stack(
        [model[0].weight for model in backprop.classifiers("relu", 2.0, 2, seeds=n)]
    ),
    "tasks.networks": lambda n: (
        lstms.tasks.networks(
            lstms.tasks.entries()["LSTM"], lstms.tasks.adding(4), hidden=3, seeds=n
        ).weight
    ),
    "rank_collapse": lambda n: transformers.rank_collapse(
        skip=False, layers=2, tokens=3, width=4, seeds=n
    ),
    "softmax_slopes": lambda n: (
        transformers.softmax_slopes(4, keys=3, queries=2, seeds=n).gradients
    ),
    "driven.gradient_flow": lambda n: (
        lstms.driven.gradient_flow(
            products.gaussian_factors(3, 1, seeds=n)[:, 0], input_std=1.0, steps=4
        ).log_norms
    ),
    "tasks.train": lambda n: (
        lstms.tasks.train(
            lstms.tasks.adding(4), lstms.tasks.entries()["GRU"], seeds=n, **RNN
        ).loss.T
    ),
    "train": trained,
}


@pytest.mark.breaks(
    "companion/products.py",
    "random.normal(generators, depth, n, n)",
    "random.normal([generators[0]] * depth, len(generators), n, n).transpose(0, 1)",
    case="gaussian_factors",
)
@pytest.mark.parametrize("name", DRAWINGS)
def test_one_network_more_leaves_the_others_as_they_were(name: str) -> None:
    two, three = DRAWINGS[name](2), DRAWINGS[name](3)
    assert (len(two), len(three)) == (2, 3)
    assert not torch.equal(three[0], three[1])
    assert not torch.equal(three[1], three[2])
    torch.testing.assert_close(three[:2], two, rtol=1e-12, atol=1e-12, equal_nan=True)


# ---------------------------------------------------------------- nobody draws otherwise

OWN = {
    "companion/_lib/random.py",
    "companion/checks.py",  # what a student's task has: no repetition may change it
    "companion/jacobian.py",  # whether examples depend on each other: no experiment
}


def seeded(path: Path) -> list[int]:
    """Return the lines at which a file seeds a generator by itself, not in its docstrings."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (
            node.func.attr in {"manual_seed", "default_rng", "RandomState"}
            and not ast.unparse(node.args).startswith("random.mixed")
        )
    ]


def test_generators_are_seeded_in_one_place() -> None:
    files = [p for p in (ROOT / "companion").rglob("*.py") if "teach" not in p.parts]
    found = {p.relative_to(ROOT).as_posix() for p in files if seeded(p)}
    assert found == OWN
