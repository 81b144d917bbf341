"""Products of matrices whose entries are rounded to few bits, and added up in float32.

Tensor cores do these best, and so do CPUs that multiply bfloat16. XLA's CPU compiler ignores the precision that a
product is asked for, and jax's derivatives of a product of bfloat16 are mixed or rounded twice. So it is a primitive
here, with the rules of jax's own product.
"""

import math
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Primitive, jaxpr_as_fun
from jax.extend.core.primitives import dot_general_p
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float32

from sltjax.fusion import LARGE, once

Tensor = Float32[Array, "..."]


def with_rounded_products(function: Callable[..., Any], dtype: Any) -> Callable[..., Any]:
    """The same function of arrays, with its products of float32 matrices, and those of its derivatives, rounded.

    Products with a vector stay as they are, those with a `jax.lax.Precision` of their own, convolutions, and whatever
    stands in derivatives that are written by hand.

    Args:
        function: of pytrees of arrays.
        dtype: what the entries of matrices are rounded to, before they are multiplied.
    """
    dtype = jnp.dtype(dtype)

    @partial(jax.jit, inline=True)
    @wraps(function)
    def rounded(*args: Any) -> Any:
        traced, out = jax.make_jaxpr(function, return_shape=True)(*args)
        results = jaxpr_as_fun(_rounded(traced, _is_of_matrices, dtype))(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(out), results)

    return rounded


def _is_product(equation: JaxprEqn) -> bool:
    return equation.primitive is dot_general_p


def _is_of_matrices(equation: JaxprEqn) -> bool:
    if not _is_product(equation) or equation.params["precision"] is not None:
        return False
    for operand, contracted, batched in zip(equation.invars, *equation.params["dimension_numbers"], strict=True):
        shape = operand.aval.shape
        rows = [size for axis, size in enumerate(shape) if axis not in contracted and axis not in batched and size > 1]
        if operand.aval.dtype != "float32" or not rows:
            return False
    return True


def _rounded(program: Any, which: Callable[[JaxprEqn], bool], dtype: Any) -> Any:
    """A program of which some products are rounded, within its loops, branches and calls too."""
    if isinstance(program, ClosedJaxpr):
        return program.replace(jaxpr=_rounded(program.jaxpr, which, dtype))
    if isinstance(program, Jaxpr):
        return program.replace(eqns=[_rounded(equation, which, dtype) for equation in program.eqns])
    if isinstance(program, JaxprEqn):
        if which(program):
            return program.replace(primitive=_rounded_product, params=program.params | {"dtype": dtype})
        return program.replace(params={name: _rounded(value, which, dtype) for name, value in program.params.items()})
    return tuple(_rounded(each, which, dtype) for each in program) if type(program) is tuple else program


_rounded_product = Primitive("rounded_product")
"""jax's dot_general of float32 arrays that are rounded to `dtype`."""


@_rounded_product.def_impl
@partial(jax.jit, static_argnames=("dtype", "dimension_numbers", "precision", "preferred_element_type", "out_sharding"))
def _run(x: Tensor, y: Tensor, **params: Any) -> Tensor:
    result: Tensor = _rounded_product.bind(x, y, **params)
    return result


def _multiply(x: Any, y: Tensor, *, dtype: Any, **params: Any) -> Tensor:
    return dot_general_p.bind(x.astype(dtype), y.astype(dtype), **params | {"preferred_element_type": y.dtype})


def _multiply_on_cpu(x: Tensor, y: Tensor, *, dtype: Any, dimension_numbers: Any, **params: Any) -> Tensor:
    """As XLA's CPU compiler can, in bfloat16, where what is added up lies side by side in the first.

    Where it does not the compiler fails, or transposes, which costs what is gained, as rounding does of small matrices.
    """
    ((contracted, y_contracted), (batched, y_batched)) = dimension_numbers
    rows = [axis for axis in range(x.ndim) if axis not in contracted and axis not in batched]
    is_transposed = (*batched, *contracted, *rows) == tuple(range(x.ndim))
    is_small = math.prod(size for axis, size in enumerate(y.shape) if axis not in y_batched) < LARGE
    if dtype != jnp.bfloat16:
        x, y = (operand.astype(dtype).astype(operand.dtype) for operand in (x, y))
    if dtype != jnp.bfloat16 or is_transposed or is_small:
        return dot_general_p.bind(x, y, dimension_numbers=dimension_numbers, **params)
    x = jnp.transpose(x, (*batched, *rows, *contracted))
    last = tuple(range(x.ndim - len(contracted), x.ndim))
    dimension_numbers = ((last, y_contracted), (tuple(range(len(batched))), y_batched))
    # In memory before the product begins, of which a transposition would become part.
    return _multiply(once(lambda x: x.astype(dtype))(x), y, dtype=dtype, dimension_numbers=dimension_numbers, **params)


@_rounded_product.def_abstract_eval
def _shape(x: Any, y: Any, *, dtype: Any, **params: Any) -> Any:
    return dot_general_p.abstract_eval(x, y, **params)[0]


def _as_jax(rule: Callable[..., Tensor], *args: Tensor, dtype: Any) -> Tensor:
    """What a rule of jax's product gives, with the products in it rounded."""
    result: Tensor = jaxpr_as_fun(_rounded(jax.make_jaxpr(rule)(*args), _is_product, dtype))(*args)[0]
    return result


def _transposed(is_x: bool, cotangent: Tensor, x: Any, y: Any, *, dtype: Any, **params: Any) -> Tensor:
    """In x, or else in y: in the one that is not known."""
    unknown, known = (x, y) if is_x else (y, x)

    def rule(cotangent: Tensor, known: Tensor) -> Tensor:
        def product(unknown: Tensor) -> Tensor:
            return dot_general_p.bind(*((unknown, known) if is_x else (known, unknown)), **params)

        return jax.linear_transpose(product, unknown.aval)(cotangent)[0]

    return _as_jax(rule, cotangent, known, dtype=dtype)


def _batched(operands: Any, axes: Any, *, dtype: Any, **params: Any) -> tuple[Tensor, int]:
    axis = _axis_of_batch(operands, axes, params["dimension_numbers"])
    rule = jax.vmap(partial(dot_general_p.bind, **params), in_axes=axes, out_axes=axis)
    return _as_jax(rule, *operands, dtype=dtype), axis


def _axis_of_batch(operands: Any, axes: Any, dimensions: Any) -> int:
    """Where jax's rule leaves the axis of a batch: among the rows of the operand that has it alone, as it was there."""
    if None not in axes:
        return 0
    axis_of_result = len(dimensions[1][0])  # first come the batches that there were
    for operand, batch, contracted, batched in zip(operands, axes, *dimensions, strict=True):
        axes_of_one = range(operand.ndim - (batch is not None))
        rows = [axis for axis in axes_of_one if axis not in contracted and axis not in batched]
        if batch is not None:
            return axis_of_result + sum(axis < batch for axis in rows)
        axis_of_result += len(rows)
    raise AssertionError("vmap of what has no batch")


ad.defbilinear(_rounded_product, partial(_transposed, True), partial(_transposed, False))
batching.primitive_batchers[_rounded_product] = _batched
mlir.register_lowering(_rounded_product, mlir.lower_fun(_multiply, multiple_results=False))
mlir.register_lowering(_rounded_product, mlir.lower_fun(_multiply_on_cpu, multiple_results=False), platform="cpu")
