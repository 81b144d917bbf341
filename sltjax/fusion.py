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


def once(function: Callable[..., Array]) -> Callable[..., Array]:
    """The same function of arrays, whose result is in memory before what takes it begins.

    XLA would compute it anew for every element that takes it.
    """

    def barred(*args: Array) -> Array:
        return lax.optimization_barrier(function(*args))

    return lambda *args: lax.platform_dependent(*args, cpu=_called(function), default=barred)


def in_rows(gradient: Params) -> Params:
    """The same gradient, of which large matrices are in memory row by row before what takes them begins.

    The gradient of a matrix is a product that is often computed transposed. XLA's CPU compiler would read it column by
    column where it updates the weights, ten times as slowly where the columns are a power of two long.
    """
    return jax.tree.map(_in_rows, gradient)


def _in_rows(gradient: Array) -> Array:
    if gradient.ndim < 2 or gradient.size < LARGE:
        return gradient
    return lax.platform_dependent(gradient, cpu=_called(lax.optimization_barrier), default=lambda x: x)


def _called(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        with set_xla_metadata(inlineable="false"):
            return jax.jit(function)(*args)

    return call
