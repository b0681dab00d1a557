"""Checks of arguments that several modules make, each with one wording."""

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import TypeVar

import torch
from torch import Tensor

Word = TypeVar("Word", bound=str)


def positive_integer(name: str, value: object) -> int:
    """Return ``value`` as an int, or raise if it is not a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number of at least 1, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


def non_negative(name: str, value: object) -> float:
    """Return ``value`` as a float, or raise if it is not a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be finite and at least 0, got {value}")
    return float(value)


def one_of(name: str, value: object, accepted: Iterable[Word]) -> Word:
    """Return ``value`` if it is one of the accepted words, or raise naming them."""
    accepted = list(accepted)
    if value not in accepted:
        raise ValueError(f"{name} must be one of {accepted}, got {value!r}")
    return next(word for word in accepted if word == value)


def floating(name: str, value: object) -> Tensor:
    """Return ``value`` if it is a floating-point tensor, or raise saying what it is."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if not torch.is_floating_point(value):
        raise TypeError(f"{name} must be a floating-point tensor, got {value.dtype}")
    return value


def finite(name: str, value: object) -> float:
    """Return ``value`` as a float, or raise if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def share(name: str, value: object) -> float:
    """Return ``value`` as a float, or raise if it is not above 0 and at most 1."""
    number = finite(name, value)
    if not 0 < number <= 1:
        raise ValueError(f"{name} must be above 0 and at most 1, got {value}")
    return number
