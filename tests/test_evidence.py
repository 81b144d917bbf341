"""The evidence by thermodynamic integration, against exact values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import assert_agrees
from scipy.integrate import quad
from scipy.special import k0e

import sltjax
from sltjax.evidence import integrated, temperatures
from sltjax.samplers import GHMC, Newton
from sltjax.sampling import condition_all, sample_block
from sltjax.schedule import Schedule
from sltjax.truth import deep_linear, linear_regression


@pytest.mark.parametrize("prior", [1e-1, 1e-3, 1e-5])
def test_temperatures_integrate_what_falls_from_the_prior_to_the_posterior(prior):
    beta, (fine, coarse) = temperatures(24)
    assert np.all(np.diff(beta) > 0)
    assert beta[-1] == 1
    exact = np.log((1 + prior) / prior)
    shape = beta / (beta + prior)
    assert abs(fine @ shape - exact) < 1e-3
    assert abs(fine @ shape - exact) < abs(coarse @ shape - exact) / 10
    assert coarse @ shape == pytest.approx(
        np.dot(temperatures(12)[1][0], temperatures(12)[0] / (temperatures(12)[0] + prior))
    )


# a conjugate model, a hundred times over

N, GAMMA, SEEDS, GRID = 60, 1.0, 100, 12
TRUTH = linear_regression(jax.random.key(0), 3, num_examples=N, noise=1.0, correlation=0.5)
OFF = np.array([0.3, -0.2, 0.1])  # from the minimum to the centre of the prior


def exact_evidence():
    """−log Z by the Gaussian integral, for a prior about a point beside the minimum."""
    x, y, w = (np.asarray(a, np.float64) for a in (TRUTH.data["x"], TRUTH.data["y"], TRUTH.params))
    start = w + OFF
    covariance = np.eye(N) + x @ x.T / GAMMA  # of the labels, by unit noise and prior
    residual = y - x @ start
    return (np.linalg.slogdet(covariance)[1] + residual @ np.linalg.solve(covariance, residual)) / 2


@pytest.mark.slow
def test_evidence_of_a_conjugate_model_and_its_error():
    beta, _ = temperatures(GRID)
    nbeta = np.tile(N * beta, SEEDS)
    start = jnp.float32(TRUTH.params + OFF)
    posteriors = condition_all(sltjax.LocalPosterior(TRUTH.loss, start[None], 1.0, GAMMA), TRUTH.data, N)
    anchor_loss = float(posteriors.anchor_loss[0])
    posteriors = jax.tree.map(lambda x: jnp.repeat(x, len(nbeta), axis=0), posteriors)
    posteriors = posteriors.replace(nbeta=jnp.float32(nbeta))
    schedule = Schedule(num_chains=4, num_draws=120, burn_in=200, thin=8, batch_size=N)
    sampler = GHMC(0.5, preconditioner=Newton(3 * nbeta + GAMMA))
    trace = sample_block(jax.random.key(1), posteriors, np.arange(len(nbeta)), sampler, TRUTH.data, schedule)
    found = [
        integrated(N * beta, {name: x[k * GRID : (k + 1) * GRID] for name, x in trace.items()}, N, anchor_loss)
        for k in range(SEEDS)
    ]
    exact = exact_evidence()
    for estimate in found:
        assert_agrees(estimate, exact, 0.02)
    values, errors = (np.array([getattr(x, name) for x in found]) for name in ("value", "std_error"))
    assert np.mean(np.abs(values - exact) < 1.96 * errors) >= 0.9
    assert abs(values.mean() - exact) < 4 * np.median(errors) / np.sqrt(SEEDS)
    assert 0.8 < np.median(errors) / values.std() < 1.5
    assert not any("num_temperatures" in said for estimate in found for said in estimate.health.messages)
    assert np.mean(found[0].per_chain) == pytest.approx(found[0].value, abs=found[0].std_error / 10)


def test_too_few_temperatures_are_told():
    beta, _ = temperatures(4)
    nbeta = 1e6 * beta
    rng = np.random.default_rng(0)
    w = rng.normal(size=(4, 4, 120, 2)) / np.sqrt(nbeta + 1)[:, None, None, None]
    found = integrated(nbeta, {"delta_loss": np.sum(w**2, axis=-1) / 2}, 10**6, 0.0)
    assert any("half of the 4 temperatures give" in said for said in found.health.messages)


# a singular one: y = a b x + noise about a b = 0, of λ = 1/2 and m = 2


def log_of_product_normal(t, gamma):
    """The log density of a·b for a and b normal with precision γ."""
    return np.log(gamma / np.pi) + np.log(k0e(gamma * abs(t))) - gamma * abs(t)


@pytest.mark.slow
def test_evidence_of_a_singular_model():
    n = 200
    truth = deep_linear(jax.random.key(0), (1, 1, 1), 0, num_examples=n, noise=1.0)
    x, y = (np.asarray(truth.data[name], np.float64)[:, 0] for name in ("x", "y"))

    def tempered(beta, times_loss):
        """∫ (nL)^k exp(−βnL) over the prior, for the loss nL as a quadratic in the product."""

        def integrand(t):
            loss = np.sum((t * x - y) ** 2) / 2
            return (loss if times_loss else 1.0) * np.exp(
                -beta * (loss - np.sum(y**2) / 2) + log_of_product_normal(t, 1.0)
            )

        return sum(quad(integrand, *ends, epsabs=0, epsrel=1e-8, limit=200)[0] for ends in ((-4, 0), (0, 4)))

    exact = np.sum(y**2) / 2 - np.log(tempered(1.0, False))
    beta, _ = temperatures(16)
    numerics = {"num_chains": 8, "num_draws": 1000, "burn_in": 1000, "thin": 8}
    found = sltjax.thermodynamic_integration(
        jax.random.key(1),
        truth.loss,
        truth.params,
        truth.data,
        num_temperatures=16,
        sampler=GHMC(0.5, preconditioner=Newton(10 * n * beta + 1)),
        **numerics,
    )
    assert_agrees(found, exact, 0.005)
    assert not any("num_temperatures" in said for said in found.health.messages)
    beta = 1 / np.log(n)
    wbic = tempered(beta, True) / tempered(beta, False)
    posterior = sltjax.LocalPosterior(truth.loss, truth.params, beta * n, 1.0)
    sampler = GHMC(0.5, preconditioner=Newton(10 * n * beta))
    trace = sltjax.sample(jax.random.key(2), posterior, sampler, truth.data, batch_size=n, **numerics)
    assert_agrees(sltjax.wbic(trace, n, float(np.sum(y**2) / (2 * n))), wbic, 0.005)
    # WBIC and the expansion are the evidence up to what does not grow with n
    assert abs(wbic - exact) < np.sqrt(np.log(n))
    expanded = n * float(np.min(np.sum((np.outer(y @ x / (x @ x), x) - y) ** 2))) / (2 * n)
    assert abs(expanded + np.log(n) / 2 - np.log(np.log(n)) - exact) < 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"gamma": 0.0}, "gamma: got 0.0, expected a finite precision above 0"),
        ({"num_temperatures": 7}, "num_temperatures: got 7, expected an even number"),
    ],
)
def test_what_cannot_work_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        sltjax.thermodynamic_integration(jax.random.key(0), TRUTH.loss, TRUTH.params, TRUTH.data, **arguments)
