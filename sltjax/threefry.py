"""The random numbers of chains: those of `jax.random` under threefry, computed where they are used.

On CPUs jax runs the rounds of its cipher as a loop over arrays in memory, which took a third of a small model's step.
Here they are written out: each number comes of its own counter, in one pass with what takes it, and nothing is sent
between the devices that share an array. What many take, such as a key, is computed once.
"""

import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend.random import define_prng_impl
from jaxtyping import Array, UInt, UInt32

from sltjax.entrywise import entrywise
from sltjax.fusion import once
from sltjax.types import RngKey

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_ROUNDS = 20
_PARITY = 0x1BD11BDA

Words = UInt32[Array, "2"]
AnyArray: TypeAlias = Array | np.ndarray


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
        TypeError: it is a number, such as a seed, or no array at all.
        ValueError: it is several keys.
    """
    is_new = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not is_new and np.ndim(key) == 0:
        raise TypeError(f"key: got {key!r}, expected a key, such as jax.random.key(0)")
    raw = jax.random.key_data(key) if is_new else jnp.asarray(key)
    if raw.ndim != 1:
        raise ValueError(f"key: got keys of shape {raw.shape[:-1]}, expected a single one; take one of them")
    return raw


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
    x, y = _words_of_counters(key[0], key[1], first, second)
    return x, y


def rounds(key0: AnyArray, key1: AnyArray, x: AnyArray, y: AnyArray) -> tuple[AnyArray, AnyArray]:
    """The cipher itself, of JAX's arrays or of NumPy's."""
    schedule = (key0, key1, key0 ^ key1 ^ np.uint32(_PARITY))
    x, y = x + key0, y + key1
    for turn in range(_ROUNDS):
        x = x + y
        left, right = (np.uint32(by) for by in (_ROTATIONS[turn % 8], 32 - _ROTATIONS[turn % 8]))
        y = ((y << left) | (y >> right)) ^ x
        if turn % 4 == 3:
            group = turn // 4 + 1
            x, y = x + schedule[group % 3], y + schedule[(group + 1) % 3] + np.uint32(group)
    return x, y


_words_of_counters = entrywise(rounds, jnp.uint32, jnp.uint32)


@jax.jit
def _seed(seed: Array) -> Words:
    return jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))


def _split(key: Words, shape: tuple[int, ...]) -> UInt32[Array, "*shape 2"]:
    if isinstance(key, Tracer):
        return _traced_keys(key, numbers(shape), -1)
    return _known_keys(key, np.arange(math.prod(shape), dtype=np.uint32).reshape(shape), -1)


def _fold_in(key: Words, number: Any) -> Words:
    make = _traced_keys if isinstance(key, Tracer) or isinstance(number, Tracer) else _known_keys
    return make(key, number.astype(jnp.uint32), 0)


def _known_keys(key: Words, counters: AnyArray, axis: int) -> UInt32[Array, "..."]:
    """A key for each counter, by NumPy: nothing is compiled for it."""
    first, second = np.asarray(key)[:, None]
    words = rounds(first, second, np.zeros(1, np.uint32), np.ravel(counters))
    return jnp.asarray(np.stack([word.reshape(np.shape(counters)) for word in words], axis))


@jax.jit(static_argnums=2)
def _traced_keys(key: Words, counters: Array, axis: int) -> UInt32[Array, "..."]:
    return once(lambda key, counters: jnp.stack(cipher(key, jnp.uint32(0), counters), axis))(key, counters)


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
