"""Noise strategies: (key, params) -> a pytree like params, with mean 0 and variance 1 in every entry.

Samplers of weak order 1 and 2, such as SGLD, need no more of noise than its first moments. Noise is most of what they
add to the cost of a gradient: it is computed in one pass with what it is added to, in a third of the time of
`jax.random.normal`, which has the words behind its numbers in memory first. The quantile takes half as long as
`lax.erf_inv` does on CPUs, and is as close.
"""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt32

from sltjax.entrywise import entrywise
from sltjax.fusion import once
from sltjax.threefry import Words, cipher, numbers, rounds, words_of
from sltjax.types import Params, RngKey

# Minimax polynomials, the highest power first: log over [1, 2) to 9e-6, and normal quantile over x against
# −log(1 − x²) − 8 over [−8, 8] to 3e-6 of its size.
LOG = (0.0311040017, -0.288739835, 1.13062584, -2.46122164, 3.52930466, -1.94106434)
RATIO = (
    *(-3.00791704e-11, 2.62151302e-10, 3.89208471e-09, -5.4015407e-08, 2.01091989e-07, -1.13025705e-07),
    *(-1.22196517e-05, 0.000341553938, -0.00715204314, 0.249423007, 3.76384596),
)


def gaussian(key: RngKey, params: Params) -> Params:
    """Standard normal entries, in float32 whatever the parameters' dtype: quantiles of 2²⁴ equal parts, up to ±5.42."""
    return _like(key, params, _normal)


def rademacher(key: RngKey, params: Params) -> Params:
    """±1 entries of one random bit each, close to free: the same second moment, for schemes of weak order 1."""
    return _like(key, params, _signs)


def _like(key: RngKey, params: Params, draw: Callable[[Words, tuple[int, ...], int], Array]) -> Params:
    leaves, structure = jax.tree.flatten(params)
    words = words_of(key)
    return jax.tree.unflatten(structure, [draw(words, jnp.shape(w), stream) for stream, w in enumerate(leaves)])


def _normal(key: Words, shape: tuple[int, ...], stream: int) -> Float[Array, "..."]:
    (normal,) = _normals(key[0], key[1], numbers(shape), jnp.uint32(stream))
    return normal


def quantile(word: UInt32[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The normal quantile of a word's 24 leading bits: x·f(−log(1 − x²)) for x = 2p − 1, to 7·10⁻⁶ of its size."""
    x = ((word.astype(jnp.int32) >> 8).astype(jnp.float32) + 0.5) * np.float32(2.0**-23)
    bits = lax.bitcast_convert_type((1 - x) * (1 + x), jnp.int32)
    exponent = (bits >> 23).astype(jnp.float32) - 127
    mantissa = lax.bitcast_convert_type(bits & 0x7FFFFF | 0x3F800000, jnp.float32)
    log = exponent * np.float32(math.log(2)) + _polynomial(LOG, mantissa)
    return x * _polynomial(RATIO, -log - 8)


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    def horner(value: Any, coefficient: Any) -> Any:
        return value * x + coefficient

    return jnp.asarray(reduce(horner, map(np.float32, coefficients)))


def _quantiles(*words: Any) -> tuple[Array]:
    word, _ = rounds(*words)
    return (quantile(jnp.asarray(word)),)


_normals = entrywise(_quantiles, jnp.float32)


def _signs(key: Words, shape: tuple[int, ...], stream: int) -> Float[Array, "..."]:
    *rows, last = shape or (1,)
    packed = (*rows, -(-last // 32))
    words = once(lambda key: cipher(key, numbers(packed), jnp.uint32(stream))[0])(key)
    bits = words[..., None] >> jnp.arange(32, dtype=jnp.uint32) & 1
    signs = 2 * bits.reshape(*rows, 32 * packed[-1])[..., :last].astype(jnp.float32) - 1
    return signs.reshape(shape)
