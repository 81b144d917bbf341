"""A problem whose local learning coefficient is known."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sltjax.types import Batch, Loss, Params, RngKey

Coefficient: TypeAlias = tuple[Fraction, int]
"""A learning coefficient λ and its multiplicity m: volume{K < t} ~ t^λ (−log t)^(m−1) as t → 0."""


@dataclass(frozen=True, eq=False)
class Truth:
    """A loss, a minimum of it, data, and the exact answer there.

    The coefficient is local, at `params` and under a prior that is positive there (Lau et al., arXiv
    2308.12108).

    Attributes:
        loss: `loss(params, batch)`, one loss an example, shape [batch]; pure.
        params: the minimum w*, a pytree of float32 arrays.
        data: the full batch, a pytree of arrays that share their leading axis [n].
        llc: λ(w*), exact; a float only where λ is irrational.
        multiplicity: m(w*), at least 1.

    Raises:
        ValueError: if the leading axes of `data` differ, λ is negative or m is below 1.
    """

    loss: Loss
    params: Params
    data: Batch
    llc: Fraction | float
    multiplicity: int

    def __post_init__(self) -> None:
        lengths = {leaf.shape[0] for leaf in jax.tree.leaves(self.data)}
        if len(lengths) != 1:
            raise ValueError(f"data: got leading axes {sorted(lengths)}, expected one common length n > 0")
        if self.llc < 0 or self.multiplicity < 1:
            raise ValueError(f"got λ = {self.llc}, m = {self.multiplicity}; expected λ ≥ 0 and m ≥ 1")

    @property
    def num_examples(self) -> int:
        """The number of examples n."""
        return jax.tree.leaves(self.data)[0].shape[0]


def from_potential(
    key: RngKey,
    potential: Callable[[Params], Array],
    params: Params,
    coefficient: Coefficient,
    *,
    num_examples: int = 1000,
) -> Truth:
    """Give a population loss K a data set on which the mean loss is K itself.

        loss_j(w) = x_j² K(w),    x_j Gaussian, scaled so that (1/n) Σ x_j² = 1

    Every example has its minimum at w*, so batches add noise that is multiplicative, of relative variance ≈
    2/batch.

    Args:
        key: consumed.
        potential: K ≥ 0, a scalar function of the parameters, with K(w*) = 0.
        params: w*.
        coefficient: (λ, m) of K at w*.
        num_examples: n.

    Raises:
        ValueError: if `num_examples` is no whole number of at least 1, or K(w*) is not 0.
    """
    (count,) = whole_numbers("num_examples", [num_examples], minimum=1)
    if potential(params) != 0:
        raise ValueError(f"K(params): got {potential(params)}, expected 0; pass a zero of K and subtract its minimum")

    def loss(params: Params, batch: Batch) -> Float[Array, " batch"]:
        return batch["x"] ** 2 * potential(params)

    x = jax.random.normal(key, (count,), jnp.float32)
    return Truth(loss, params, {"x": x / jnp.sqrt(jnp.mean(x**2))}, *coefficient)


def whole_numbers(name: str, values: Sequence[Any], minimum: int) -> tuple[int, ...]:
    """Check a non-empty sequence of integers.

    Raises:
        ValueError: if it is empty, holds something that is no integer, or something below `minimum`.
    """
    try:
        numbers = tuple(operator.index(value) for value in values)
    except TypeError:
        raise ValueError(f"{name}: got {values!r}, expected whole numbers; pass a sequence of int") from None
    if not numbers:
        raise ValueError(f"{name}: got an empty sequence, expected at least one whole number")
    if min(numbers) < minimum:
        raise ValueError(f"{name}: got {list(numbers)}, expected whole numbers of at least {minimum}")
    return numbers
