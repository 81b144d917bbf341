"""What XLA is kept from computing within what takes it, where that would cost more than it saves.

Its CPU compiler ignores optimisation barriers, but keeps calls that are marked.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array

from sltjax.types import Params

LARGE = 2**14  # entries of a matrix that no first-level cache holds
NARROW = 32  # columns that are few


def once(function: Callable[..., Array]) -> Callable[..., Array]:
    """The same function of arrays, whose result is in memory before what takes it begins.

    XLA would compute it anew for every element that takes it.
    """

    def barred(*args: Array) -> Array:
        return lax.optimization_barrier(function(*args))

    return lambda *args: lax.platform_dependent(*args, cpu=_called(function), default=barred)


def laid_out(gradient: Params) -> Params:
    """The same gradient, whose matrices are in memory as is best for them before what takes them begins.

    The gradient of a matrix is a product that XLA's CPU compiler computes in whichever order suits what takes it. A
    large one it would read column by column where it updates the weights, ten times as slowly where the columns are a
    power of two long: it is to lie row by row. One of few columns takes three times as long as its transpose: it is to
    lie column by column.
    """
    return jax.tree.map(_laid_out, gradient)


def _laid_out(gradient: Array) -> Array:
    is_narrow = gradient.ndim == 2 and 1 < gradient.shape[1] < min(NARROW, gradient.shape[0])
    is_large = gradient.ndim >= 2 and gradient.size >= LARGE
    if not (is_narrow or is_large):
        return gradient
    cpu = (lambda x: _in_rows(x.T).T) if is_narrow else _in_rows
    return lax.platform_dependent(gradient, cpu=cpu, default=lambda x: x)


def _in_rows(matrix: Array) -> Array:
    return _called(lax.optimization_barrier)(matrix)


def _called(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        with set_xla_metadata(inlineable="false"):
            return jax.jit(function)(*args)

    return call
