"""Noise: its moments, its shapes, and that no two of its entries are the same draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import kstest

from sltjax.samplers import gaussian, rademacher
from sltjax.samplers.noise import quantile

NOISES = {noise.__name__: noise for noise in (gaussian, rademacher)}
PARAMS = {"w": jnp.ones((40, 65)), "b": jnp.ones(7, jnp.bfloat16), "scale": jnp.ones(())}
DRAWS = 400
FOURTH = {"gaussian": 3.0, "rademacher": 1.0}


@pytest.fixture(scope="module", params=NOISES)
def drawn(request):
    """(name, entries [draw, parameter])."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    noise = jax.vmap(NOISES[request.param], in_axes=(0, None))(keys, PARAMS)
    return request.param, np.concatenate([np.asarray(z).reshape(DRAWS, -1) for z in jax.tree.leaves(noise)], axis=1)


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_it_is_like_the_parameters_in_float32(noise):
    drawn = noise(jax.random.key(0), PARAMS)
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, PARAMS)
    assert {z.dtype for z in jax.tree.leaves(drawn)} == {jnp.dtype(jnp.float32)}


def test_moments(drawn):
    name, z = drawn
    for power, exact in {1: 0.0, 2: 1.0, 3: 0.0, 4: FOURTH[name]}.items():
        values = z.ravel().astype(float) ** power
        assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(values.size) + 1e-6, power


def test_entries_are_uncorrelated_within_a_draw_and_between_draws(drawn):
    _, z = drawn
    for matrix in (z.T @ z / DRAWS, z @ z.T / z.shape[1]):
        apart = matrix[~np.eye(len(matrix), dtype=bool)]
        size = DRAWS if len(matrix) != DRAWS else z.shape[1]
        assert np.sqrt((apart**2).mean()) == pytest.approx(size**-0.5, rel=0.02)
        assert np.abs(apart).max() < 6.5 * size**-0.5


def test_normal_numbers_take_every_quantile_alike():
    z = np.asarray(gaussian(jax.random.key(1), jnp.zeros(2**20)))
    assert kstest(z, "norm").pvalue > 1e-3
    assert 4.5 < np.abs(z).max() < 5.43
    assert len(np.unique(z)) > 0.95 * 2**20


def test_the_quantile_is_that_of_the_normal_distribution():
    edges = (0, 1, 2**23 - 1, 2**23, 2**24 - 2, 2**24 - 1)
    leading = np.append(np.arange(0, 2**24, 1009), edges)
    z = quantile(jnp.asarray(leading.astype(np.uint32) << 8))
    signed = np.where(leading < 2**23, leading, leading - 2.0**24)
    assert np.abs(np.asarray(z) / ndtri((1 + (signed + 0.5) / 2**23) / 2) - 1).max() < 7e-6


def test_leaves_of_one_shape_and_keys_of_any_kind_have_draws_of_their_own():
    twins = gaussian(jax.random.key(1), {"a": jnp.zeros(1000), "b": jnp.zeros(1000)})
    other = gaussian(jax.random.key(1, impl="rbg"), jnp.zeros(1000))
    raw = gaussian(jax.random.key_data(jax.random.key(1)), jnp.zeros(1000))
    np.testing.assert_array_equal(raw, twins["a"])
    assert np.abs(np.corrcoef([twins["a"], twins["b"], other]) - np.eye(3)).max() < 0.13
