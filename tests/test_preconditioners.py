import jax
import jax.numpy as jnp
import numpy as np
from cases import BADLY_SCALED, NBETA, Revealing, assert_agrees, draw, draw_and_expect, exact_at_scale

import sltjax
from sltjax.samplers.adaptation import adapted, set_learning
from sltjax.samplers.preconditioners import precondition
from sltjax.truth import quadratic, sgld_llc


def gradients(seed=0, steps=20):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(steps, 3)).astype(np.float32), rng.normal(size=(steps, 3)).astype(np.float32)


def learn(preconditioner, pulls=True):
    """What `precondition` gives at every step for gradients with and without a pull."""
    loss_gradients, localisation = gradients()
    statistics = adapted(preconditioner.init(jnp.zeros(3)))
    seen = []
    for g, pull in zip(loss_gradients, pulls * localisation, strict=True):
        statistics, scale, drift = precondition(preconditioner, statistics, jnp.array(g + pull), jnp.array(pull))
        seen.append((scale, drift))
    return statistics, *map(np.stack, zip(*seen, strict=True))


def average(values, decay):
    """The bias-corrected running mean, in one sum."""
    count = len(values)
    weights = (1 - decay) * decay ** np.arange(count)[::-1] / (1 - decay**count)
    return weights @ values


def test_rmsprop_is_the_published_scale_without_the_pull():
    loss_gradients, _ = gradients()
    _, scales, drifts = learn(sltjax.rmsprop(decay=0.9, stability=0.5))
    for t, scale in enumerate(scales):
        expected = 1 / (np.sqrt(average(loss_gradients[: t + 1] ** 2, 0.9)) + 0.5)
        np.testing.assert_allclose(scale, expected, rtol=1e-4)
    np.testing.assert_allclose(drifts, sum(gradients()), rtol=1e-6)
    np.testing.assert_allclose(scales, learn(sltjax.rmsprop(decay=0.9, stability=0.5), pulls=False)[1], rtol=1e-4)


def test_adam_follows_the_mean_loss_gradient_and_the_pull_of_now_while_it_learns():
    loss_gradients, pulls = gradients()
    statistics, scales, drifts = learn(sltjax.adam(momentum=0.8, decay=0.9))
    np.testing.assert_allclose(scales, learn(sltjax.rmsprop(decay=0.9))[1], rtol=1e-6)
    for t, drift in enumerate(drifts):
        np.testing.assert_allclose(drift, average(loss_gradients[: t + 1], 0.8) + pulls[t], rtol=1e-4, atol=1e-5)
    gradient = jnp.arange(3.0)
    kept, scale, drift = precondition(sltjax.adam(0.8, 0.9), set_learning(statistics, False), gradient, gradient)
    np.testing.assert_array_equal(drift, gradient)
    np.testing.assert_array_equal(scale, scales[-1])
    jax.tree.map(np.testing.assert_array_equal, kept.learnt, statistics.learnt)


def test_identity_learns_nothing():
    _, scales, drifts = learn(sltjax.identity())
    assert np.all(scales == 1)
    np.testing.assert_array_equal(drifts, sum(gradients()))


def test_newton_learns_the_inverse_precision():
    curvatures, gamma = BADLY_SCALED
    truth = quadratic(jax.random.key(1), curvatures, num_examples=64)
    name = "leimkuhler-matthews newton"  # whose positions, and so E[(∂U)²], are exact at every step size
    trace, _ = draw_and_expect(name, truth, curvatures, gamma, 1.0)
    curvature = 1 / trace["revealed"][:, 0] / (NBETA * curvatures + gamma)
    error = curvature.std(axis=0, ddof=1) / len(curvature) ** 0.5
    assert np.all(error < 0.05)
    assert np.all(np.abs(curvature.mean(axis=0) - 1) < 4 * error)


def test_rmsprop_has_the_right_target_because_it_stops_learning():
    """Published RMSProp-SGLD learns along the chain, without the correction Γ that its target then needs."""
    curvatures, gamma, step_size = np.array([1e-3, 1e-2, 1e-1]), 0.0, 0.03
    truth = quadratic(jax.random.key(1), curvatures, num_examples=64)
    sampler = sltjax.SGLD(step_size, preconditioner=sltjax.rmsprop(stability=0.01))

    frozen = draw(truth, Revealing(sampler, 1.0), gamma)
    exact = exact_at_scale(sgld_llc, curvatures, gamma, step_size * frozen["revealed"][:, 0])
    assert_agrees(sltjax.llc(frozen, NBETA), exact, cap=0.02)

    adapting = draw(truth, Revealing(sampler, 2.0), gamma)
    exact = exact_at_scale(sgld_llc, curvatures, gamma, step_size * adapting["revealed"][:, ::300].reshape(-1, 3))
    wrong = sltjax.llc(adapting, NBETA)
    assert wrong.value - exact > max(6 * wrong.std_error, 0.1 * exact)
