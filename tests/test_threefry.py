"""Random numbers: those of jax to the last bit."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32

from sltjax.threefry import as_threefry, cipher, portable, raw_of

NUMBERS = {
    "split": lambda key: jax.random.key_data(jax.random.split(key, (3, 2))),
    "fold in": lambda key: jax.random.key_data(jax.random.fold_in(key, 2**32 - 3)),
    "normal": lambda key: jax.random.normal(key, (5, 7)),
    "integers": lambda key: jax.random.randint(key, (9,), 0, 100_000),
    "bytes": lambda key: jax.random.bits(key, (4,), "uint8"),
    "one number": lambda key: jax.random.uniform(key),
    "flips": lambda key: jax.random.bernoulli(key, shape=(8,)),
}


def test_the_cipher_is_that_of_jax():
    key, first, second = jnp.array([7, 2**31 + 5], jnp.uint32), jnp.arange(1000, dtype=jnp.uint32), jnp.uint32(3)
    expected = threefry_2x32(key, jnp.concatenate([first, jnp.full(1000, second)]))
    np.testing.assert_array_equal(jnp.concatenate(cipher(key, first, second)), expected)


@pytest.mark.parametrize("draw", NUMBERS.values(), ids=NUMBERS)
def test_the_numbers_are_those_of_jax(draw):
    key = jax.random.key(2**31 + 5)
    keys = jax.random.split(key, 3)
    np.testing.assert_array_equal(draw(as_threefry(key)), draw(key))
    np.testing.assert_array_equal(jax.jit(draw)(as_threefry(key)), draw(key))
    np.testing.assert_array_equal(jax.jit(jax.vmap(lambda key: draw(as_threefry(key))))(keys), jax.vmap(draw)(keys))


def test_lanes_that_differ_by_key_and_by_number_are_those_of_jax():
    def table(keys):
        folded = jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(None, 0)), in_axes=(0, None))(keys, jnp.arange(4))
        return jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (2, 3))), in_axes=1)(folded)

    keys = jax.random.split(jax.random.key(1), 3)
    for run in (table, jax.jit(table)):
        np.testing.assert_array_equal(run(jax.vmap(as_threefry)(keys)), table(keys))


def test_the_cipher_is_one_operation_until_it_is_lowered():
    draw = jax.vmap(jax.vmap(lambda key: jax.random.bits(key, (5,))))
    traced = str(jax.make_jaxpr(draw)(jax.random.split(as_threefry(jax.random.key(0)), (2, 3))))
    assert "shift_left" not in traced
    assert "shift_left" in jax.jit(draw).lower(jax.random.split(as_threefry(jax.random.key(0)), (2, 3))).as_text()


def test_words_of_64_bits_are_those_of_jax():
    with jax.enable_x64(True):
        key = jax.random.key(3)
        np.testing.assert_array_equal(jax.random.normal(as_threefry(key), (5,)), jax.random.normal(key, (5,)))


def test_keys_of_every_kind_are_taken():
    key = jax.random.key(7)
    drawn = jax.random.normal(as_threefry(key), (1000,))
    np.testing.assert_array_equal(jax.random.normal(as_threefry(jax.random.key_data(key)), (1000,)), drawn)
    np.testing.assert_array_equal(jax.random.normal(as_threefry(as_threefry(key)), (1000,)), drawn)
    other = jax.random.normal(as_threefry(jax.random.key(7, impl="rbg")), (1000,))
    assert abs(np.corrcoef(other, drawn)[0, 1]) < 0.13


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_a_key_is_carried_to_any_devices_as_two_words(kind):
    key = jax.random.key(7, impl=kind)
    assert portable(key).shape == (2,)
    np.testing.assert_array_equal(portable(key), jax.random.key_data(as_threefry(key)))


@pytest.mark.parametrize("seed", [0, None, np.int64(0)])
def test_a_seed_is_no_key(seed):
    with pytest.raises(TypeError, match=re.escape(f"got {seed!r}, expected a key, such as jax.random.key(0)")):
        raw_of(seed)


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_several_keys_are_not_one(make):
    with pytest.raises(ValueError, match=r"got keys of shape \(3,\), expected a single one"):
        raw_of(jax.random.split(make(0), 3))


def test_more_numbers_than_counters_are_refused():
    with pytest.raises(ValueError, match=r"got 4,294,967,296 random numbers at once.* fewer than 2\*\*32"):
        jax.jit(lambda: jax.random.bits(as_threefry(jax.random.key(0)), (2**16, 2**16))).lower()
