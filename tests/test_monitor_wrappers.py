"""The monitor around models that are compiled, scaled, distributed, or sharded."""

import copy
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_monitor import BATCH, Backwards, data, hooks_of, mlp, train
from torch import Tensor, nn
from torch.nn import functional

from companion.monitor import GradientMonitor, Log

SAME = ("delta_norms", "gradient_norms", "update_norms", "output_mean", "output_variance")
SAME += ("slope_mean", "slope_square", "dead", "saturated", "total_norm", "input_variance", "loss")
SAME += ("activation_mean", "activation_variance", "input_mean", "input_spread", "weight_norms")


def assert_same(found: Log, expected: Log) -> None:
    assert found.layers == expected.layers
    assert found.parameters == expected.parameters
    for name in SAME:
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-12, equal_nan=True
        )


@pytest.mark.parametrize(
    ("network", "in_place"),
    # torch itself leaves a Sequential that is compiled in place as it is.
    [(mlp, False), (lambda: Backwards().double(), False), (lambda: Backwards().double(), True)],
)
def test_a_compiled_model_is_measured_as_if_it_were_not(network: object, in_place: bool) -> None:
    torch.manual_seed(0)
    plain = network()
    model = copy.deepcopy(plain)
    compiled = 0

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> object:
        nonlocal compiled
        compiled += 1
        return graph.forward

    torch._dynamo.reset()
    try:
        if in_place:
            model.compile(backend=backend)
        else:
            model = torch.compile(model, backend=backend)
        before = hooks_of(model)
        log = train(model, 5, every=2).log
        assert compiled > 0  # what is not sampled runs compiled
        times = compiled
        model(data()[0])
        assert compiled == times  # and was not compiled again
        assert hooks_of(model) == before
    finally:
        torch._dynamo.reset()
    assert_same(log, train(plain, 5, every=2).log)


def scaled(
    scale: float, steps: int = 3, *, unscale: bool = False, break_at: int = -1
) -> tuple[Log, torch.amp.GradScaler]:
    """Train under a loss scale, with a gradient that overflows at one step."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    x, y = data()
    with GradientMonitor(model) as monitor:
        for step in range(steps):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            factor = float("inf") if step == break_at else 1.0
            scaler.scale(loss * factor).backward()
            if unscale:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 1e9)
            scaler.step(optimizer)
            scaler.update()
            monitor.step(loss)
    return monitor.log, scaler


@pytest.mark.breaks(
    "companion/monitor/gradient_monitor.py", "norms = [norm / row.scale for norm in norms]", "pass"
)
@pytest.mark.parametrize("unscale", [False, True])
def test_the_loss_scale_is_divided_out(unscale: bool) -> None:
    log, _ = scaled(1024.0, unscale=unscale)
    assert_same(log, train(mlp(), 3).log)
    assert log.scale.tolist() == [1024.0] * 3
    assert log.skipped.tolist() == [0, 0, 0]


def test_a_skipped_step_is_marked_and_moves_nothing() -> None:
    log, _ = scaled(1024.0, break_at=1)
    assert log.skipped.tolist() == [0, 1, 0]
    assert log.scale.tolist() == [1024, 1024, 512]
    assert (log.update_norms[1] == 0).all()
    assert log.non_finite[1] > 0
    assert (log.update_norms[2] > 0).all()


def test_autocast_is_measured_in_a_wider_type() -> None:
    model = mlp().float()
    plain = train(copy.deepcopy(model), batch=(data()[0].float(), data()[1])).log
    x, y = data()
    with GradientMonitor(model) as monitor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = functional.cross_entropy(model(x.float()), y)
        loss.backward()
        monitor.step(loss)
    for name in ("delta_norms", "output_variance", "slope_mean", "gradient_norms"):
        found, expected = getattr(monitor.log, name), getattr(plain, name)
        torch.testing.assert_close(found, expected, rtol=0.05, atol=1e-3, equal_nan=True)


def test_names_are_those_of_the_model_within() -> None:
    names = train(mlp()).log.parameters
    wrapped = train(nn.DataParallel(mlp())).log
    assert wrapped.parameters == names
    assert [layer.name for layer in wrapped.layers] == ["0", "2", "4"]
    mine = nn.ModuleDict({"module": nn.Linear(2, 2)})
    assert GradientMonitor(mine).log.parameters == ("module.weight", "module.bias")


WORKER = """
import sys, torch
from pathlib import Path
sys.path[:0] = [{tests!r}, {root!r}]
from test_monitor import data, mlp
from torch import nn
from companion.monitor import GradientMonitor
rank, port, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
torch.distributed.init_process_group(
    "gloo", init_method=f"tcp://127.0.0.1:{{port}}", rank=rank, world_size=2
)
model = nn.parallel.DistributedDataParallel(mlp(nn.GELU))
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
x, y = data()
with GradientMonitor(model, every=2) as monitor:
    for _ in range(4):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rank::2]), y[rank::2])
        loss.backward()
        optimizer.step()
        monitor.step(loss)
monitor.to_json(folder / f"{{rank}}.json")
torch.distributed.destroy_process_group()
"""


@pytest.mark.breaks("companion/monitor/_ledger.py", "square / world**2 for", "square / world for")
@pytest.mark.breaks(
    "companion/monitor/gradient_monitor.py",
    "engine.queue_callback(lambda: engine.queue_callback(self._read_gradients))",
    "engine.queue_callback(self._read_gradients)",
)
def test_two_processes_measure_what_one_would(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    root = Path(__file__).resolve().parents[1]
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(tests=str(root / "tests"), root=str(root)), encoding="utf-8")
    workers = [
        subprocess.Popen(
            [sys.executable, script, str(rank), port, tmp_path],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
    expected = train(mlp(nn.GELU), 4, every=2).log
    for rank in range(2):
        assert_same(Log.from_json(tmp_path / f"{rank}.json"), expected)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second


def test_shards_are_refused() -> None:
    class DTensor(nn.Parameter):
        """Stands in for torch's: a parameter of which other processes hold the rest."""

    model = nn.Sequential(nn.Linear(2, 2))
    model[0].weight = DTensor(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"sharded.*DTensor"), GradientMonitor(model):
        pass
    assert BATCH  # the batch plays no part
