"""Functions of single entries, as one operation of jax each.

Tracing a hundred operations of a cipher anew for every array, and again at each vmap, took longer than compiling them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.typing import DTypeLike
from jaxtyping import Array


def entrywise(function: Callable[..., tuple[Any, ...]], *dtypes: DTypeLike) -> Callable[..., tuple[Array, ...]]:
    """The same function of several arrays that broadcast, without a derivative; it is written out where it is lowered.

    Args:
        function: arrays -> arrays of their common shape, by operations on single entries alone.
        dtypes: of its results.
    """
    primitive = Primitive(function.__name__)
    primitive.multiple_results = True
    primitive.def_impl(jax.jit(function))

    @primitive.def_abstract_eval
    def results(*args: ShapedArray) -> list[ShapedArray]:
        shape = np.broadcast_shapes(*(x.shape for x in args))
        whole = next((x for x in args if x.shape == shape), ShapedArray(shape, args[0].dtype))
        return [whole.update(dtype=jnp.dtype(dtype)) for dtype in dtypes]

    batching.defbroadcasting(primitive)
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=True))

    def called(*args: Any) -> tuple[Array, ...]:
        shape = np.broadcast_shapes(*map(np.shape, args))
        return tuple(primitive.bind(*(jnp.broadcast_to(x, shape) for x in args)))

    return called
