"""Random draws: a generator for each seed and stream, and one number that draws all of them anew.

A network's numbers come from generators of its own, so that asking for one network more leaves the
others as they were. Where weights and inputs must not depend on each other they come from different
streams of the same seed. With the environment variable ``COURSE_REPETITION`` set to a whole number
before the companion is loaded, every seed stands for another one: the same program is then the same
experiment with fresh draws. Without it a seed stands for itself.
"""

import hashlib
import os
from collections.abc import Sequence
from numbers import Integral
from typing import Literal

import torch
from torch import Generator, Tensor

from companion._lib.arguments import positive_integer

VARIABLE = "COURSE_REPETITION"
Stream = Literal["weights", "data", "inputs", "batches"]
#: How far a stream's seeds lie from those of the weights. Of a seed, torch's generator on a CPU
#: takes the lowest 32 bits and no others.
STREAMS: dict[Stream, int] = {
    "weights": 0,
    "data": 2**30,
    "inputs": 2**31,
    "batches": 3 * 2**30,
}


def repetition_number(text: str | None) -> int | None:
    """Return the number that a repetition has, or None where nothing is repeated."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{VARIABLE} must be a whole number of at least 0, got {text!r}")
    return int(text)


REPETITION = repetition_number(os.environ.get(VARIABLE))


def seed_list(seeds: int | Sequence[int]) -> list[int]:
    """Return the seeds named, or as many as the number says, counting from 0."""
    if not isinstance(seeds, Sequence):
        seeds = range(positive_integer("seeds", seeds))
    if not seeds or not all(isinstance(seed, Integral) for seed in seeds):
        raise ValueError(f"seeds needs a whole number, or at least one of them, got {seeds!r}")
    return [int(seed) for seed in seeds]


def mixed(seed: int, stream: Stream = "weights", *, repetition: int | None = REPETITION) -> int:
    """Return what to seed a generator with for a seed and a stream.

    It is the seed itself, moved by the stream's distance; in a repetition 63 bits of a hash of that
    and of the repetition's number.
    """
    own = seed + STREAMS[stream]
    if repetition is None:
        return own
    digest = hashlib.sha256(f"{own} {repetition}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, stream: Stream = "weights") -> Generator:
    """Return a generator for one seed and stream."""
    return torch.Generator().manual_seed(mixed(seed, stream))


def generators(seeds: Sequence[int], stream: Stream = "weights") -> list[Generator]:
    """Return a generator for each seed of a stream."""
    return [generator(seed, stream) for seed in seeds]


def normal(generators: Sequence[Generator], *shape: int) -> Tensor:
    """Draw standard normal numbers in float64: for each generator a tensor of this shape."""
    drawn = torch.empty(len(generators), *shape, dtype=torch.float64)
    for own, source in zip(drawn, generators, strict=True):
        own.normal_(generator=source)
    return drawn


def rows(generators: Sequence[Generator], count: int, size: int) -> Tensor:
    """Draw ``size`` of ``count`` rows with replacement, as (len(generators), size)."""
    return torch.stack([torch.randint(count, (size,), generator=g) for g in generators])
