"""Against blackjax, whose diagnostics agree with ArviZ's, and in both libraries of arrays."""

import blackjax.diagnostics
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sltjax.convergence import effective_draws, rhat


def autoregressive(chains, draws, rho, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(chains, draws))
    for t in range(1, draws):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * x[:, t]
    return x


CASES = {
    "independent": autoregressive(4, 1000, 0.0),
    "correlated": autoregressive(4, 1000, 0.9),
    "hardly moving": autoregressive(8, 1001, 0.99),
    "two chains of few draws": autoregressive(2, 101, 0.5),
    "apart": autoregressive(4, 1000, 0.5) + np.arange(4)[:, None],
    "of different scale": autoregressive(4, 1000, 0.5) * np.array([[1], [1], [1], [3]]),
    "heavy tails": np.random.default_rng(0).standard_cauchy(size=(4, 1000)),
    "ties": np.round(autoregressive(4, 1000, 0.5)),
}


@pytest.mark.parametrize("x", CASES.values(), ids=CASES.keys())
def test_blackjax_finds_the_same(x):
    x = x.astype(np.float32)
    assert effective_draws(x) == pytest.approx(float(blackjax.diagnostics.effective_sample_size(x)), rel=2e-3)
    assert rhat(x) == pytest.approx(float(blackjax.diagnostics.rhat(x)), abs=2e-5)


def test_one_chain_has_effective_draws():
    x = CASES["correlated"][:1].astype(np.float32)
    assert effective_draws(x) == pytest.approx(float(blackjax.diagnostics.effective_sample_size(x)), rel=1e-3)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
def test_effective_draws_of_a_known_autocorrelation(rho):
    # blackjax counts a tenth more at −0.5, where the last even autocorrelation that counts is the largest of its kind
    known = 4 * 1000 * (1 - rho) / (1 + rho)
    found = [effective_draws(autoregressive(4, 1000, rho, seed)) for seed in range(50)]
    assert np.median(found) == pytest.approx(known, rel=0.05)


@pytest.mark.parametrize("x", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("function", [effective_draws, rhat])
def test_numpy_and_traced_arrays_of_jax_give_the_same(function, x):
    x = x.astype(np.float32)
    traced = jax.jit(jax.vmap(function))(np.stack([x, x[::-1]]))
    assert isinstance(function(x), np.ndarray | np.floating)
    np.testing.assert_allclose(traced, function(x.astype(np.float64)), rtol=1e-3)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("value", [2.5, 0.1, 17.3])  # the variance of equal numbers need not be 0
def test_draws_that_never_move(array, value):
    x = array(np.full((4, 999), value))
    assert effective_draws(x) == 0
    assert np.isnan(rhat(x))


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_chains_that_stand_still_apart(array):
    x = array(np.repeat([[1.0], [2.0], [3.0], [4.0]], 100, axis=1))
    assert rhat(x) > 1e3
    assert effective_draws(x) < 10


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_chains_of_two_values_that_disagree(array):
    # all lie equally far from the median, of which R-hat says nothing
    x = np.repeat([[1.0], [2.0], [1.0], [2.0]], 400, axis=1)
    x[0, 5], x[1, 7] = 2.0, 1.0
    assert rhat(array(x)) > 10


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_halves_of_one_draw_say_nothing(array):
    assert np.isnan(rhat(array(np.random.default_rng(0).normal(size=(4, 3)))))


def test_what_numpy_counts_compiles_nothing(caplog):
    with jax.log_compiles():
        effective_draws(CASES["ties"])
        rhat(CASES["ties"])
    assert not caplog.records
