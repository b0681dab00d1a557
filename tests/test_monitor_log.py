"""A log that is saved and read back is the same to the last digit."""

import json
import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from helpers import normal

from companion.monitor import Layer, Log
from companion.monitor._summary import Sample
from companion.monitor.log import columns


def a_log(samples: int = 2, layers: int = 2, parameters: int = 3) -> Log:
    """A log of made-up numbers, some of them NaN or infinite."""
    layer = Layer(
        "0", "Linear", 4, 1, ("0.weight", "0.bias"), "relu", normalized=False, frozen=False
    )
    values: dict = {}
    for seed, field in enumerate(fields(Log)):
        if field.name in columns("layer"):
            values[field.name] = normal(samples, layers, seed=seed)
        elif field.name in columns("parameter"):
            values[field.name] = normal(samples, parameters, seed=seed)
        else:
            values[field.name] = normal(samples, seed=seed)
    odd = torch.tensor([math.nan, math.inf, -math.inf], dtype=torch.float64)
    values["delta_norms"].view(-1)[:3] = odd[: samples * layers]
    values |= {
        "layers": (layer,) * layers,
        "parameters": tuple(f"p{i}" for i in range(parameters)),
        "every": 5,
        "loss": normal(7),
        "steps": torch.arange(samples) * 5,
        "through_time": normal(samples, layers, 3),
        "times": torch.arange(layers),
        "dtype": "float32",
        "torch_version": "2.4",
    }
    return Log(**values)


def test_each_field_of_numbers_says_of_what_they_are() -> None:
    named = [*columns("layer"), *columns("parameter"), *columns("step")]
    others = {"loss", "steps", "through_time", "times"}
    tensors = {f.name for f in fields(Log) if isinstance(getattr(a_log(), f.name), torch.Tensor)}
    assert {*named, *others} == tensors
    assert len(named) == len(set(named))
    for name in columns("layer"):
        assert f"        {name}: (T, L) " in Log.__doc__, name
    for name in columns("parameter"):
        assert f"        {name}: (T, P) " in Log.__doc__, name
    for name in columns("step"):
        assert f"        {name}: (T,) " in Log.__doc__, name


@pytest.mark.breaks(
    "companion/monitor/_summary.py", "    if column not in columns(of):\n", "    if False:\n"
)
@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Sample().put("delta_norm", 0, 1.0),
        lambda: Sample(values={"input_meen": 1.0}),
        lambda: Sample().put("weight_norms", 0, 1.0),
    ],
)
def test_a_column_that_a_log_does_not_have_is_an_error(wrong: Callable[[], None]) -> None:
    with pytest.raises(KeyError, match="a log has no '"):
        wrong()


@pytest.mark.parametrize("samples", [2, 0])
def test_a_log_survives_being_saved(samples: int, tmp_path: Path) -> None:
    log = a_log(samples)
    log.to_json(tmp_path / "run.json")
    found = Log.from_json(tmp_path / "run.json")
    for field in fields(Log):
        before, after = getattr(log, field.name), getattr(found, field.name)
        if isinstance(before, torch.Tensor):
            assert before.dtype == after.dtype, field.name
            torch.testing.assert_close(before, after, rtol=0, atol=0, equal_nan=True)
        else:
            assert before == after


def test_what_is_saved_is_plain_json(tmp_path: Path) -> None:
    a_log().to_json(tmp_path / "run.json")
    text = (tmp_path / "run.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert "Infinity" not in text
    plain = json.loads(text)
    assert plain["format"] == 1
    assert plain["delta_norms"]["values"][:3] == [None, "inf", "-inf"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plain: plain.update(format=2), "needs format 1, got 2"),
        (lambda plain: plain.pop("format"), "needs format 1, got None"),
        (lambda plain: plain.pop("loss"), r"needs the fields \['loss'\]"),
        (lambda plain: plain.update(loss="none"), "cannot be read"),
        (lambda plain: plain["layers"][0].pop("name"), "cannot be read"),
    ],
)
def test_another_format_is_refused(change: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    a_log().to_json(path)
    plain = json.loads(path.read_text(encoding="utf-8"))
    change(plain)
    path.write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        Log.from_json(path)


@pytest.mark.parametrize("text", ["no json", "[1, 2]"])
def test_what_is_no_log_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"needs (a log in JSON|format 1)"):
        Log.from_json(path)


def test_a_log_says_how_much_it_holds() -> None:
    assert repr(a_log()) == "Log(7 steps, 2 sampled, 2 layers, 3 parameters)"
    assert repr(replace(a_log(), layers=())) == "Log(7 steps, 2 sampled, 0 layers, 3 parameters)"
