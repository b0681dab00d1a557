"""The 2ⁿ paths of the gradient through a residual network, one by one and by their length.

A block y = x + F(x) has the Jacobian I + F′: the gradient goes back past the branch and through it.
Multiplied out, n blocks have 2ⁿ paths, each of which takes some of the branches; how many is its
length. The gradient is their sum, in which they add or cancel.

Source: Veit, Wilber & Belongie (2016), arXiv 1605.06431.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.func import jacrev

from companion._lib.arguments import floating, non_negative
from companion.residuals.blocks import Block, Stack

MOST_BLOCKS = 20  # a million paths


class Paths(NamedTuple):
    """Each path by itself.

    Attributes:
        taken: (2ⁿ, n) whether path p takes the branch of block l.
        gradients: (2ⁿ, *, d_0) what the path adds to the gradient at the network's input.

    """

    taken: Tensor
    gradients: Tensor

    @property
    def lengths(self) -> Tensor:
        """(2ⁿ,) How many branches each path takes."""
        return self.taken.sum(1)


def branch_jacobians(model: Stack, inputs: Tensor) -> Tensor:
    """Return the Jacobian of what each block adds to its input, where the inputs make it pass.

    Args:
        model: a residual stack, whose blocks leave x as it is but for adding to it; its first and
            last layers are not run.
        inputs: (examples, width) of the first block. All of them together are one vector here, as
            batch norm requires; take few.

    Returns:
        (n, d, d) with d = examples · width, first block first.

    Raises:
        ValueError: if the inputs are not of shape (examples, width), or the stack is plain, highway
            or has an activation after the sum: there is no identity to go past a branch.
        TypeError: if the inputs are not a floating-point tensor.

    Example:
        >>> from companion.residuals import Design, networks
        >>> (model,) = networks(Design("residual", depth=3, width=4, branch_scale=0.0))
        >>> float(branch_jacobians(model, torch.ones(1, 4, dtype=torch.float64)).abs().max())
        0.0

    """
    floating("inputs", inputs)
    if inputs.dim() != 2:
        raise ValueError(f"inputs needs shape (examples, width), got {tuple(inputs.shape)}")
    found, x, size = [], inputs.detach(), inputs.numel()
    for block in cast("Iterable[Block]", model.blocks):
        design = block.design
        if design.kind in ("plain", "highway") or design.order == "post_activation":
            raise ValueError(
                "model must have blocks x + F(x) with nothing after the sum, got "
                f"{design.kind}, {design.order}"
            )
        found.append(jacrev(block.residual)(x).detach().reshape(size, size))
        x = block(x).detach()
    return torch.stack(found)


def _checked(jacobians: Sequence[Tensor] | Tensor, gradient: Tensor) -> list[Tensor]:
    jacobians = [floating("each of jacobians", each) for each in jacobians]
    size = floating("gradient", gradient).shape[-1] if gradient.dim() else 0
    if not jacobians:
        raise ValueError("jacobians needs at least one block, got none")
    for each in jacobians:
        if each.shape != (size, size):
            raise ValueError(
                f"each of jacobians needs shape ({size}, {size}), as gradient has "
                f"{tuple(gradient.shape)}, got {tuple(each.shape)}"
            )
    return jacobians


def every_path(jacobians: Sequence[Tensor] | Tensor, gradient: Tensor) -> Paths:
    """Return all 2ⁿ paths, by taking the gradient back past each branch and through it.

    Args:
        jacobians: n Jacobians (d, d) of the branches, first block first.
        gradient: (*, d) at the output; the identity matrix gives the paths of the Jacobian.

    Raises:
        ValueError: if a shape does not fit, or there are no blocks or more than 20.
        TypeError: if a Jacobian or the gradient is not a floating-point tensor.

    Source: Veit, Wilber & Belongie (2016), arXiv 1605.06431.

    Example:
        >>> blocks = torch.tensor([[[0.5]], [[-2.0]]])
        >>> paths = every_path(blocks, torch.ones(1))
        >>> paths.lengths.tolist(), paths.gradients.flatten().tolist()
        ([0, 1, 1, 2], [1.0, -2.0, 0.5, -1.0])

    """
    jacobians = _checked(jacobians, gradient)
    if len(jacobians) > MOST_BLOCKS:
        raise ValueError(
            f"jacobians may be of {MOST_BLOCKS} blocks at most, got {len(jacobians)}; "
            "by_length needs no list of paths"
        )
    found = gradient.unsqueeze(0)
    taken = torch.zeros(1, 0, dtype=torch.bool)
    for jacobian in reversed(jacobians):
        found = torch.cat([found, found @ jacobian])
        past = torch.arange(2).bool().repeat_interleave(len(taken)).unsqueeze(1)
        taken = torch.cat([past, taken.repeat(2, 1)], dim=1)
    return Paths(taken, found)


def by_length(jacobians: Sequence[Tensor] | Tensor, gradient: Tensor) -> Tensor:
    """Return the sum of all paths of each length, without a list of them.

    A path that is k long above block l is k long below it if it goes past the branch, and k + 1 if
    it goes through, so that n²/2 products sum up all 2ⁿ paths.

    Args:
        jacobians: n Jacobians (d, d) of the branches, first block first.
        gradient: (*, d) at the output; the identity matrix gives the Jacobian's parts.

    Returns:
        (n + 1, *, d): what the paths of length 0, 1, …, n add to the gradient at the input.

    Raises:
        ValueError: if a shape does not fit, or there are no blocks.
        TypeError: if a Jacobian or the gradient is not a floating-point tensor.

    Example:
        >>> by_length(torch.tensor([[[0.5]], [[-2.0]]]), torch.ones(1)).flatten().tolist()
        [1.0, -1.5, -1.0]

    """
    sums = gradient.unsqueeze(0)
    for jacobian in reversed(_checked(jacobians, gradient)):
        nothing = torch.zeros_like(sums[:1])
        sums = torch.cat([sums, nothing]) + torch.cat([nothing, sums @ jacobian])
    return sums


def shares(lengths: Tensor) -> Tensor:
    """Return which share of the gradient's square the paths of each length account for.

    The share of length k is ⟨g_k, g⟩/‖g‖², g being the sum of all g_k. The shares sum to 1; a
    negative one is of paths that cancel others.

    Args:
        lengths: (n + 1, *) what :func:`by_length` returns.

    Returns:
        (n + 1,).

    Raises:
        ValueError: if the gradient is 0.
        TypeError: if ``lengths`` is not a floating-point tensor.

    Example:
        >>> [round(share, 3) for share in shares(torch.tensor([[1.0], [-1.5], [-1.0]])).tolist()]
        [-0.667, 1.0, 0.667]

    """
    rows = floating("lengths", lengths).flatten(1)
    whole = rows.sum(0)
    square = whole @ whole
    if square == 0:
        raise ValueError("lengths sum to a gradient of 0, which has no shares")
    return rows @ whole / square


def predicted_shares(factors: Sequence[float]) -> Tensor:
    """Return the shares to expect if branch l multiplies the squared gradient by ``factors[l]``.

    Different paths are uncorrelated on average over random branches, so that a path has the product
    of its branches' factors, and length k the sum over all paths that long: the share of
    branch l in its block is p = f/(1 + f), and the length is the number of successes in n trials.
    With one factor this is the binomial law, with mean n f/(1 + f).

    Args:
        factors: n numbers, as ``s²σ_w²E[φ′²]`` for one weight layer.

    Returns:
        (n + 1,) float64.

    Raises:
        TypeError: if a factor is not a number.
        ValueError: if one is negative or not finite.

    Example:
        >>> predicted_shares([1.0, 1.0]).tolist()
        [0.25, 0.5, 0.25]

    """
    found = torch.ones(1, dtype=torch.float64)
    for factor in factors:
        chance = non_negative("each of factors", factor) / (1 + factor)
        longer = torch.cat([found.new_zeros(1), chance * found])
        found = torch.cat([(1 - chance) * found, found.new_zeros(1)]) + longer
    return found
