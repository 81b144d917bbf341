"""Information criteria of a conjugate model, whose posterior is Gaussian: everything is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import assert_agrees

import sltjax
from sltjax import observables
from sltjax.samplers import GHMC, Newton
from sltjax.sampling import condition_all, sample_block
from sltjax.schedule import Schedule
from sltjax.truth import linear_regression, localized_llc

N, GAMMA, SEEDS = 60, 1.0, 100
TRUTH = linear_regression(jax.random.key(0), 3, num_examples=N, noise=1.0, correlation=0.5)
X, Y = (np.asarray(TRUTH.data[name], np.float64) for name in ("x", "y"))
RESIDUAL = Y - X @ np.asarray(TRUTH.params, np.float64)
ANCHOR_LOSS = float(np.mean(RESIDUAL**2) / 2)
CURVATURES = np.linalg.eigvalsh(X.T @ X / N)
COLD = N / np.log(N)
SCHEDULE = Schedule(num_chains=4, num_draws=400, burn_in=400, thin=8, batch_size=N)
OBSERVABLES = {"delta_loss": observables.delta_loss, "losses": observables.losses(TRUTH.loss, TRUTH.data)}


def predictive_variance(beta):
    """Var⟨w, x_i⟩ under the posterior at inverse temperature β, [example]."""
    return np.einsum("id,de,ie->i", X, np.linalg.inv(beta * X.T @ X + GAMMA * np.eye(3)), X)


def exact_waic():
    s = predictive_variance(1.0)
    training = np.log(1 + s) / 2 + RESIDUAL**2 / (2 * (1 + s))
    return np.mean(training + s**2 / 2 + RESIDUAL**2 * s)


def exact_fluctuation(beta):
    s = predictive_variance(beta)
    return beta / 2 * np.sum(s**2 / 2 + RESIDUAL**2 * s)


@pytest.fixture(scope="module")
def traces():
    """Chains at β = 1/log n and at β = 1, for as many seeds, [seed, chain, draw, ...] each."""
    nbeta = np.repeat([COLD, N], SEEDS)
    start = jnp.broadcast_to(TRUTH.params, (len(nbeta), 3))
    posteriors = condition_all(sltjax.LocalPosterior(TRUTH.loss, start, COLD, GAMMA), TRUTH.data, N)
    posteriors = posteriors.replace(nbeta=jnp.float32(nbeta))
    sampler = GHMC(0.5, preconditioner=Newton(10 * nbeta))
    trace = sample_block(
        jax.random.key(1), posteriors, np.arange(len(nbeta)), sampler, TRUTH.data, SCHEDULE, OBSERVABLES
    )
    return [{name: x[part] for name, x in trace.items()} for part in (slice(SEEDS), slice(SEEDS, None))]


def seeds(trace):
    return ({name: x[k] for name, x in trace.items()} for k in range(SEEDS))


def assert_covers(estimates, exact, cap):
    """Each within four errors, nine in ten within two, on average right, and errors as large as the scatter."""
    for estimate in estimates:
        assert_agrees(estimate, exact, cap)
    values, errors = (np.array([getattr(x, name) for x in estimates]) for name in ("value", "std_error"))
    assert np.mean(np.abs(values - exact) < 1.96 * errors) >= 0.9
    assert abs(values.mean() - exact) < 4 * np.median(errors) / np.sqrt(len(values))
    assert 0.8 < np.median(errors) / values.std() < 1.5


def test_wbic_and_free_energy(traces):
    llcs = [sltjax.llc(trace, COLD) for trace in seeds(traces[0])]
    exact = localized_llc(CURVATURES, COLD, GAMMA)
    wbic = N * ANCHOR_LOSS + np.log(N) * exact
    assert_covers([sltjax.wbic(trace, N, ANCHOR_LOSS) for trace in seeds(traces[0])], wbic, 0.02)
    found = [sltjax.free_energy(llc, N, ANCHOR_LOSS, multiplicity=2) for llc in llcs]
    assert_covers(found, wbic - np.log(np.log(N)), 0.02)


def test_wbic_is_the_mean_of_the_recorded_losses(traces):
    trace = next(seeds(traces[0]))
    by_hand = trace["losses"].astype(np.float64).sum(axis=-1).mean()
    assert sltjax.wbic(trace, N, ANCHOR_LOSS).value == pytest.approx(by_hand, rel=1e-4)


def test_waic(traces):
    found = [sltjax.waic(trace) for trace in seeds(traces[1])]
    assert_covers(found, exact_waic(), 0.01)
    assert sum(estimate.health.ok for estimate in found) >= 95
    assert np.mean(found[0].per_chain) == pytest.approx(found[0].value, rel=1e-6)


@pytest.mark.parametrize(("which", "beta"), [(0, COLD / N), (1, 1.0)])
def test_singular_fluctuation(traces, which, beta):
    found = [sltjax.singular_fluctuation(trace, beta) for trace in seeds(traces[which])]
    assert_covers(found, exact_fluctuation(beta), 0.15)


def test_examples_on_which_waic_cannot_rest_are_told(traces):
    losses = next(seeds(traces[1]))["losses"].copy()
    losses[..., 3] *= 30
    (said,) = sltjax.waic({"losses": losses}).health.messages
    assert "of 1 of 60 examples varies by more than 0.4" in said
    (said,) = sltjax.waic({"losses": losses[..., :3], "acceptance": np.full((4, 400), 0.01)}).health.messages
    assert "1% of their steps were accepted" in said


@pytest.mark.parametrize("estimator", [sltjax.waic, sltjax.singular_fluctuation])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_failed_chain_is_left_out_and_named(traces, estimator, bad):
    losses = next(seeds(traces[1]))["losses"]
    broken = losses.copy()
    broken[1, 300:, 5] = bad
    found, without = estimator({"losses": broken}), estimator({"losses": losses[[0, 2, 3]]})
    assert found.value == pytest.approx(without.value, rel=1e-6)
    assert found.std_error == pytest.approx(without.std_error, rel=1e-6)
    assert found.health.failed_draw.tolist() == [-1, 300, -1, -1]
    assert np.isnan(found.per_chain[1])
    nothing = estimator({"losses": np.full_like(losses, bad)})
    assert np.isnan(nothing.value)
    assert "all 4 chains" in nothing.health.messages[0]


def test_likelihoods_beyond_the_range_of_floats(traces):
    losses = next(seeds(traces[1]))["losses"].astype(np.float64)
    far = sltjax.waic({"losses": losses + 5000})
    near = sltjax.waic({"losses": losses})
    assert far.value - 5000 == pytest.approx(near.value, abs=1e-8)
    assert far.std_error == pytest.approx(near.std_error, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: sltjax.waic({"delta_loss": np.zeros((4, 9))}),
            r"the trace holds \['delta_loss'\], expected \"losses\"",
        ),
        (lambda: sltjax.waic({"losses": np.zeros((4, 9))}), r"shape \[4, 9\], expected \"losses\" \[chain, draw, ex"),
        (lambda: sltjax.singular_fluctuation({"losses": np.zeros((4, 9, 2))}, 0.0), "beta: got 0.0"),
        (lambda: sltjax.wbic({"delta_loss": np.zeros((4, 9))}, 1, 0.3), "num_examples: got 1, expected at least 2"),
        (lambda: sltjax.wbic({"delta_loss": np.zeros((4, 9))}, 9, np.nan), "anchor_loss: got nan"),
    ],
)
def test_what_cannot_work_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_free_energy_refuses_what_is_no_multiplicity(traces):
    llc = sltjax.llc(next(seeds(traces[0])), COLD)
    for arguments, said in (((N, 0.3, 0), "multiplicity: got 0"), ((2, 0.3, 2), "got 2, expected at least 3")):
        with pytest.raises(ValueError, match=said):
            sltjax.free_energy(llc, *arguments)
