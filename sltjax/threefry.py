"""The random numbers of chains: those of `jax.random` under threefry, computed where they are used.

On CPUs jax runs the rounds of its cipher as a loop over arrays in memory, which took a third of a small model's step.
Here they are written out: each number comes of its own counter, in one pass with what takes it, and nothing is sent
between the devices that share an array. What many take, such as a key, is computed once.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.random import define_prng_impl
from jaxtyping import Array, UInt, UInt32

from sltjax.types import RngKey

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_ROUNDS = 20
_PARITY = 0x1BD11BDA

Words = UInt32[Array, "2"]


def as_threefry(key: RngKey) -> Array:
    """The same key for this module's threefry, which gives every lane noise of its own under vmap.

    The numbers are those of `jax.random.key(seed)`; of another kind's key, those of one drawn from it.
    """
    return jax.random.wrap_key_data(words_of(key), impl=THREEFRY)


def words_of(key: RngKey) -> Words:
    """The two words of a threefry key, new style or old; two drawn from a key of another kind."""
    raw = raw_of(key)
    return raw if raw.shape == (2,) else jax.random.bits(key, (2,), jnp.uint32)


def raw_of(key: Any) -> UInt32[Array, " word"]:
    """The words of a key of any kind, new style or old.

    Raises:
        TypeError: it is no array, such as a seed.
    """
    if not hasattr(key, "dtype"):
        raise TypeError(f"key: got {key!r}, expected a key, such as jax.random.key(0)")
    return jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jnp.asarray(key)


def numbers(shape: tuple[int, ...]) -> UInt32[Array, "*shape"]:
    """0, 1, 2, …, to be counters.

    Raises:
        ValueError: more than a word can tell apart.
    """
    size = math.prod(shape)
    if size >= 2**32:
        raise ValueError(f"got {size:,} random numbers at once, of shape {shape}, expected fewer than 2**32")
    return lax.iota(jnp.uint32, size).reshape(shape)


def portable(key: RngKey) -> np.ndarray:
    """The same key as its two words, which a program on any devices takes."""
    return np.asarray(words_of(key))


def cipher(key: Words, first: UInt32[Array, "*#n"], second: UInt32[Array, "*#n"]) -> tuple[Array, Array]:
    """Threefry-2×32 of 20 rounds (Salmon et al. 2011): two words for each counter."""
    schedule = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    x, y = first + schedule[0], second + schedule[1]
    for turn in range(_ROUNDS):
        x = x + y
        by = _ROTATIONS[turn % 8]
        y = ((y << by) | (y >> (32 - by))) ^ x
        if turn % 4 == 3:
            group = turn // 4 + 1
            x, y = x + schedule[group % 3], y + schedule[(group + 1) % 3] + jnp.uint32(group)
    return x, y


def once(function: Callable[..., Array]) -> Callable[..., Array]:
    """The same function of arrays, whose result is in memory before what takes it begins.

    XLA would compute it anew for every element that takes it. Its CPU compiler ignores optimisation barriers, but keeps
    calls that are marked.
    """

    def called(*args: Array) -> Array:
        with set_xla_metadata(inlineable="false"):
            return jax.jit(function)(*args)

    def barred(*args: Array) -> Array:
        return lax.optimization_barrier(function(*args))

    return lambda *args: lax.platform_dependent(*args, cpu=called, default=barred)


@jax.jit
def _seed(seed: Array) -> Words:
    return jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))


@jax.jit(static_argnums=1)
def _split(key: Words, shape: tuple[int, ...]) -> UInt32[Array, "*shape 2"]:
    return once(lambda key: jnp.stack(cipher(key, jnp.uint32(0), numbers(shape)), axis=-1))(key)


@jax.jit
def _fold_in(key: Words, number: Array) -> Words:
    return once(lambda key, number: jnp.stack(cipher(key, jnp.uint32(0), number)))(key, number.astype(jnp.uint32))


@jax.jit(static_argnums=(1, 2))
def _random_bits(key: Words, width: int, shape: tuple[int, ...]) -> UInt[Array, "*shape"]:
    x, y = cipher(key, jnp.uint32(0), numbers(shape))
    if width == 64:
        return x.astype(jnp.uint64) << 32 | y.astype(jnp.uint64)
    return (x ^ y).astype(f"uint{width}")


THREEFRY = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="threefry, written out",
    tag="fry*",
)
