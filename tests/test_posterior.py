import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sltjax
from sltjax.losses import losses_in_pieces, mean_loss

KEY = jax.random.key(0)
DATA = {"x": jax.random.normal(KEY, (30, 3)), "y": jax.random.normal(jax.random.key(1), (30,))}
ANCHOR = {"w": jnp.array([0.3, -0.2, 0.9])}


def loss(params, batch):
    return (jnp.tanh(batch["x"] @ params["w"]) - batch["y"]) ** 2


def conditioned(**changes):
    posterior = sltjax.LocalPosterior(loss, ANCHOR, 7.0, 2.0)
    return dataclasses.replace(posterior, **changes).condition(DATA, 8)


def batches(size):
    rows = [slice(i, i + size) for i in range(0, 30, size)]
    return [(jax.tree.map(lambda x, some=some: x[some], DATA), some) for some in rows]


@pytest.mark.parametrize("batch_size", [1, 7, 30, 64])
def test_full_data_loss_and_gradient_whatever_the_batch(batch_size):
    value, gradient = jax.value_and_grad(lambda w: mean_loss(loss, w, DATA, batch_size))(ANCHOR)
    exact, exact_gradient = jax.value_and_grad(lambda w: loss(w, DATA).mean())(ANCHOR)
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    np.testing.assert_allclose(gradient["w"], exact_gradient["w"], rtol=1e-4)


@pytest.mark.parametrize("batch_size", [7, 64])
def test_the_mean_loss_has_derivatives_forward_and_of_second_order(batch_size):
    along = {"w": jnp.array([1.0, -2.0, 0.5])}

    def both(function):
        slope = jax.jvp(function, (ANCHOR,), (along,))[1]
        return slope, jax.jvp(jax.grad(function), (ANCHOR,), (along,))[1]["w"], jax.hessian(function)(ANCHOR)["w"]["w"]

    found = both(lambda w: mean_loss(loss, w, DATA, batch_size))
    for value, exact in zip(found, both(lambda w: loss(w, DATA).mean()), strict=True):
        np.testing.assert_allclose(value, exact, rtol=1e-4)


def test_the_gradient_does_not_compute_a_piece_a_second_time():
    gradient = jax.jit(jax.value_and_grad(lambda w: mean_loss(loss, w, DATA, 7)))
    assert gradient.lower(ANCHOR).as_text().count("stablehlo.tanh") == 1


@pytest.mark.parametrize("piece", [1, 7, 30, 64])
def test_losses_in_pieces_are_those_of_the_whole(piece):
    np.testing.assert_allclose(losses_in_pieces(loss, ANCHOR, DATA, piece), loss(ANCHOR, DATA), rtol=1e-6)
    less = jnp.arange(30.0)
    shifted = mean_loss(loss, ANCHOR, DATA, piece, less)
    np.testing.assert_allclose(shifted, loss(ANCHOR, DATA).mean() - 14.5, rtol=1e-5)


def test_on_all_the_data_the_potential_is_the_density_itself():
    posterior = sltjax.LocalPosterior(loss, ANCHOR, 7.0, 2.0).condition(DATA, 30)
    w = {"w": ANCHOR["w"] + jnp.array([0.1, -0.4, 0.2])}
    potential = posterior.potential(DATA, posterior.anchor_terms(DATA, slice(None)))
    (value, measured), gradient = jax.value_and_grad(potential, has_aux=True)(w)

    def exact(w):
        return 7.0 * (loss(w, DATA).mean() - loss(ANCHOR, DATA).mean()) + jnp.sum((w["w"] - ANCHOR["w"]) ** 2)

    np.testing.assert_allclose(value, exact(w), rtol=1e-5)
    np.testing.assert_allclose(gradient["w"], jax.grad(exact)(w)["w"], rtol=1e-4)
    np.testing.assert_allclose(measured.pull["w"], 2.0 * (w["w"] - ANCHOR["w"]), rtol=1e-5)
    np.testing.assert_allclose(posterior.anchor_loss, loss(ANCHOR, DATA).mean(), rtol=1e-6)


@pytest.mark.parametrize("anchored", [True, False])
def test_batches_average_to_the_full_difference_and_density(anchored):
    posterior = conditioned(anchored=anchored)
    w = {"w": ANCHOR["w"] + jnp.array([0.1, -0.4, 0.2])}
    seen = [posterior.potential(b, posterior.anchor_terms(b, rows))(w) for b, rows in batches(5)]
    delta = loss(w, DATA).mean() - loss(ANCHOR, DATA).mean()
    squared = 0.1**2 + 0.4**2 + 0.2**2
    np.testing.assert_allclose(np.mean([m.delta_loss for _, m in seen]), delta, rtol=1e-4)
    np.testing.assert_allclose(np.mean([u for u, _ in seen]), 7.0 * delta + squared, rtol=1e-4)


def test_anchoring_leaves_no_batch_noise_at_the_anchor_and_the_full_gradient():
    posterior = conditioned()
    for batch, rows in batches(5):
        potential = posterior.potential(batch, posterior.anchor_terms(batch, rows))
        (value, _), gradient = jax.value_and_grad(potential, has_aux=True)(ANCHOR)
        assert value == 0
        np.testing.assert_allclose(gradient["w"], 7.0 * posterior.anchor_gradient["w"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("what", ["potential", "anchor_terms"])
def test_gradients_of_wide_layers_are_laid_out(what):
    w, data = {"w": jnp.ones((256, 256))}, {"x": jnp.ones((16, 256))}
    wide = sltjax.LocalPosterior(lambda w, batch: jnp.sum((batch["x"] @ w["w"]) ** 2, axis=-1), w, 7.0, 2.0)
    wide = wide.condition(data, 8)
    terms = wide.anchor_terms(data, slice(None))
    programs = {
        "potential": lambda w, x: jax.grad(lambda w: wide.potential({"x": x}, terms)(w)[0])(w),
        "anchor_terms": lambda w, x: wide.at(w).anchor_terms({"x": x}, slice(None)),
    }
    assert " call(" in jax.jit(programs[what]).lower(w, data["x"]).compile().as_text()


def test_without_anchoring_the_gradient_of_all_data_is_not_computed():
    assert conditioned(anchored=False).anchor_gradient is None
    np.testing.assert_allclose(conditioned(anchored=False).anchor_loss, conditioned().anchor_loss, rtol=1e-6)


def test_without_anchoring_the_losses_at_the_anchor_are_computed_once_for_all_batches():
    """Of a batch they are looked up: its program computes the loss at w, and no other."""
    posterior = conditioned(anchored=False)
    np.testing.assert_allclose(posterior.anchor_losses, loss(ANCHOR, DATA), rtol=1e-6)
    rows = jnp.array([3, 3, 29])
    batch = jax.tree.map(lambda x: x[rows], DATA)

    def delta_loss(w):
        return posterior.potential(batch, posterior.anchor_terms(batch, rows))(w)[1].delta_loss

    w = {"w": ANCHOR["w"] + 0.5}
    np.testing.assert_allclose(delta_loss(w), jnp.mean(loss(w, batch) - loss(ANCHOR, batch)), rtol=1e-5)
    assert jax.jit(delta_loss).lower(w).as_text().count("stablehlo.tanh") == 1


def test_anchoring_cuts_the_variance_by_the_distance():
    w = {"w": ANCHOR["w"] + 0.01}
    spread = {}
    for anchored in (True, False):
        posterior = conditioned(anchored=anchored)
        terms = [(b, posterior.anchor_terms(b, rows)) for b, rows in batches(5)]
        values = [posterior.potential(*each)(w)[1].delta_loss for each in terms]
        spread[anchored] = np.std(values)
    assert spread[True] < 0.05 * spread[False]


def test_a_behavioral_loss_measures_from_the_posteriors_anchor():
    def apply(params, batch):
        return jnp.tanh(batch["x"] @ params["w"])[:, None]

    implicit = sltjax.LocalPosterior(sltjax.behavioral_loss(apply), ANCHOR, 7.0, 2.0).condition(DATA, 8)
    explicit = sltjax.LocalPosterior(sltjax.behavioral_loss(apply, ANCHOR), ANCHOR, 7.0, 2.0).condition(DATA, 8)
    w = {"w": ANCHOR["w"] + 0.5}
    expected = 0.5 * (apply(w, DATA) - apply(ANCHOR, DATA)) ** 2
    for posterior in (implicit, explicit):
        assert posterior.anchor_loss == 0
        measured = posterior.potential(DATA, posterior.anchor_terms(DATA, slice(None)))(w)[1]
        np.testing.assert_allclose(measured.delta_loss, expected.mean(), rtol=1e-4)


def test_the_default_temperature():
    assert sltjax.default_nbeta(20_000) == pytest.approx(20_000 / np.log(20_000))
