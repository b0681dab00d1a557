"""Seeds, as every function of the companion takes them."""

from collections.abc import Sequence
from numbers import Integral

from companion._lib.arguments import positive_integer


def seed_list(seeds: int | Sequence[int]) -> list[int]:
    """Return the seeds named, or as many as the number says, counting from 0."""
    if not isinstance(seeds, Sequence):
        seeds = range(positive_integer("seeds", seeds))
    if not seeds or not all(isinstance(seed, Integral) for seed in seeds):
        raise ValueError(f"seeds needs a whole number, or at least one of them, got {seeds!r}")
    return [int(seed) for seed in seeds]
