"""What GradientMonitor costs: a training step with it, over the plain step, in one run.

Each of the models trains under every instrument by turns, ten steps at a time, on one thread; what
is printed is the median over the rounds of the ratio to the plain steps of the same round, and the
quartiles. Other instruments are measured beside it where they are installed.
"""

import copy
import importlib
import importlib.metadata
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from companion.monitor import GradientMonitor

STEPS, BATCH = 10, 256
ROUNDS = 10
Step = Callable[[Tensor], None]
Instrument = Callable[[nn.Module], tuple[AbstractContextManager, Step]]


class Encoder(nn.Module):
    """Four pre-norm blocks of width 128 over 32 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 128)
        block = nn.TransformerEncoderLayer(
            128, 4, 256, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, 4, enable_nested_tensor=False)
        self.head = nn.Linear(128, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.blocks(self.embedding(tokens)).mean(1))


def mlp() -> nn.Sequential:
    """50 linear layers of width 128, ReLU between them."""
    layers: list[nn.Module] = []
    for _ in range(49):
        layers += [nn.Linear(128, 128), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight)
    return nn.Sequential(*layers, nn.Linear(128, 10))


def conv_net() -> nn.Sequential:
    """Six convolutions with batch norm on pictures of 16 x 16."""
    layers: list[nn.Module] = []
    for i in range(6):
        layers += [nn.Conv2d(1 if i == 0 else 32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def models() -> Iterator[tuple[str, nn.Module, Tensor, Tensor]]:
    """Yield each model with its data."""
    torch.manual_seed(0)
    yield "MLP", mlp(), torch.randn(BATCH, 128), torch.randint(10, (BATCH,))
    yield "conv net", conv_net(), torch.randn(64, 1, 16, 16), torch.randint(10, (64,))
    yield "transformer", Encoder(), torch.randint(100, (32, 32)), torch.randint(10, (32,))


def plain(_model: nn.Module) -> tuple[AbstractContextManager, Step]:
    return nullcontext(), lambda loss: None


def monitor(**options: object) -> Instrument:
    def make(model: nn.Module) -> tuple[AbstractContextManager, Step]:
        watching = GradientMonitor(model, **options)
        return watching, watching.step

    return make


def gradient_loop(model: nn.Module) -> tuple[AbstractContextManager, Step]:
    """What most people write: a loop over the parameters."""
    kept: list[dict[str, float]] = []
    named = list(model.named_parameters())

    def step(_loss: Tensor) -> None:
        kept.append({name: p.grad.norm().item() for name, p in named if p.grad is not None})

    return nullcontext(), step


def naive_hooks(model: nn.Module) -> tuple[AbstractContextManager, Step]:
    """The same with hooks: mean, deviation and zeros of each output, the norm of its gradient."""
    kept: list[tuple[float, ...]] = []
    _, step = gradient_loop(model)

    def forward(_module: nn.Module, _args: object, output: object) -> None:
        if isinstance(output, Tensor):
            z = output.detach()
            kept.append((z.mean().item(), z.std().item(), (z.abs() < 1e-6).float().mean().item()))

    def backward(_module: nn.Module, _inputs: object, outputs: tuple) -> None:
        if outputs[0] is not None:
            kept.append((outputs[0].norm().item(),))

    @contextmanager
    def hooked() -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            for module in model.modules():
                if not list(module.children()):
                    stack.callback(module.register_forward_hook(forward).remove)
                    stack.callback(module.register_full_backward_hook(backward).remove)
            yield

    return Again(hooked), step


class Again:
    """Enters a new context each time: the rounds need it again and again."""

    def __init__(self, make: Callable[[], AbstractContextManager]) -> None:
        self.make, self.entered = make, None

    def __enter__(self) -> object:
        self.context = self.make()
        self.entered = self.context.__enter__()
        return self.entered

    def __exit__(self, *error: object) -> None:
        self.context.__exit__(*error)


def torchmortem(model: nn.Module) -> tuple[AbstractContextManager, Step]:
    """The package of that name, as its readme uses it."""
    from torchmortem import Autopsy

    again = Again(lambda: Autopsy(model))
    return again, lambda loss: again.entered.step(loss=loss.item())


def wandb_watch(model: nn.Module) -> tuple[AbstractContextManager, Step]:
    """wandb.watch with everything on at every step, offline."""
    import wandb

    @contextmanager
    def watched() -> Iterator[object]:
        settings = wandb.Settings(silent=True, console="off")
        run = wandb.init(mode="offline", dir=tempfile.gettempdir(), settings=settings)
        run.watch(model, log="all", log_freq=1)
        try:
            yield run
        finally:
            run.unwatch(model)
            run.finish()

    again = Again(watched)
    return again, lambda loss: again.entered.log({"loss": loss.item()})


def others() -> tuple[dict[str, Instrument], list[str]]:
    """Return the instruments of others that are installed, and say which are not."""
    found: dict[str, Instrument] = {}
    missing = []
    known = {"torchmortem": torchmortem, "wandb": wandb_watch}
    for package, instrument in known.items():
        try:
            importlib.import_module(package)
        except ImportError as error:
            missing.append(f"{package} is not measured: {error}")
        else:
            found[f"{package} {importlib.metadata.version(package)}"] = instrument
    return found, missing


INSTRUMENTS: dict[str, Instrument] = {
    "plain": plain,
    "plain again": plain,
    "GradientMonitor(every=1)": monitor(every=1),
    "GradientMonitor(every=10)": monitor(every=10),
    "GradientMonitor(gradients_only=True)": monitor(gradients_only=True),
    "loop of .norm().item()": gradient_loop,
    "naive hooks": naive_hooks,
}


class Trained:
    """One copy of a model under one instrument."""

    def __init__(self, model: nn.Module, instrument: Instrument) -> None:
        self.model = copy.deepcopy(model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.context, self.step = instrument(self.model)

    def run(self, x: Tensor, y: Tensor) -> float:
        """Train for ten steps, and return how long the processor was busy with them.

        What others do on the same machine meanwhile does not count, and neither does what an
        instrument does once, before and after.
        """
        with self.context:
            start = time.process_time()
            for _ in range(STEPS):
                loss = nn.functional.cross_entropy(self.model(x), y)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.step(loss)
            return time.process_time() - start


def measure(
    model: nn.Module, x: Tensor, y: Tensor, instruments: dict[str, Instrument], rounds: int
) -> dict[str, list[float]]:
    """Return each instrument's times, round by round; which goes first changes."""
    runs = {name: Trained(model, instrument) for name, instrument in instruments.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for _ in range(rounds + 2):
        names = names[1:] + names[:1]
        for name in names:
            times[name].append(runs[name].run(x, y))
    return {name: found[2:] for name, found in times.items()}  # two rounds to warm up


def report(name: str, times: dict[str, list[float]]) -> str:
    """Return a table of ratios to the plain step."""
    step = statistics.median(times["plain"]) / STEPS * 1e3
    lines = [f"{name}: plain step {step:.1f} ms; ratio, and its quartiles over the rounds"]
    for instrument, found in times.items():
        if instrument == "plain":
            continue
        ratios = [a / b for a, b in zip(found, times["plain"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        lines.append(f"  {instrument:38s} {middle:6.3f}  ({low:.3f} to {high:.3f})")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    measured, missing = others()
    for name, model, x, y in models():
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        times = measure(model, x, y, INSTRUMENTS | measured, ROUNDS)
        sys.stdout.write(report(name, times))
        sys.stdout.flush()
    sys.stdout.write("".join(f"{line}\n" for line in missing))
