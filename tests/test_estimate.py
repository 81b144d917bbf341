"""estimate_llc with nothing tuned, against exact answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import assert_agrees

import sltjax
from sltjax.truth import deep_linear, localized_llc, quadratic, quasi_homogeneous


def close(estimate, exact, bias=0.0):
    assert_agrees(estimate, exact, cap=0.03, bias=bias)


@pytest.mark.parametrize("curvatures", [[1.0, 2.0, 5.0, 0.0], [0.1] * 4])
def test_quadratic(curvatures):
    truth = quadratic(jax.random.key(0), np.array(curvatures), num_examples=2000, curvature_noise=0.1)
    estimate = sltjax.estimate_llc(jax.random.key(1), truth.loss, truth.params, truth.data)
    close(estimate, localized_llc(np.array(curvatures), sltjax.default_nbeta(2000), 1.0), bias=0.01)


@pytest.mark.slow
def test_quasi_homogeneous():
    truth = quasi_homogeneous(jax.random.key(0), [2, 4])
    estimate = sltjax.estimate_llc(jax.random.key(1), truth.loss, truth.params, truth.data, nbeta=100.0, gamma=1e-3)
    close(estimate, float(truth.llc), bias=0.01)


@pytest.mark.slow
def test_deep_linear():
    truth = deep_linear(jax.random.key(0), (6, 4, 6), 2, num_examples=5000)
    estimate = sltjax.estimate_llc(jax.random.key(1), truth.loss, truth.params, truth.data)
    close(estimate, float(truth.llc), bias=0.08)


def test_the_users_parameters_are_left_alone():
    """Trust 18, of the sampling."""
    params = {"w": jnp.ones(2)}
    before = np.array(params["w"])
    loss = sltjax.behavioral_loss(lambda p, x: x[:, None] * p["w"])
    first = sltjax.estimate_llc(jax.random.key(0), loss, params, jnp.ones(50), num_draws=100)
    again = sltjax.estimate_llc(jax.random.key(0), loss, params, jnp.ones(50), num_draws=100)
    np.testing.assert_array_equal(params["w"], before)
    assert not params["w"].is_deleted()
    assert first.value == again.value


@pytest.mark.slow
def test_select_samples_a_part():
    def loss(params, batch):
        return batch * (jnp.sum(params["a"] ** 2) + jnp.sum(params["b"] ** 2))

    params = {"a": jnp.zeros(6), "b": jnp.zeros(2)}
    estimate = sltjax.estimate_llc(
        jax.random.key(0), loss, params, jnp.ones(1000), select=lambda p: p["b"], num_draws=4000
    )
    close(estimate, localized_llc(np.array([2.0, 2.0]), sltjax.default_nbeta(1000), 1.0), bias=0.01)


def test_a_checkpoint_that_is_no_minimum_is_reported():
    def loss(params, batch):
        return batch * jnp.sum((params["w"] - 3.0) ** 2)

    params = {"w": jnp.zeros(2)}
    estimate = sltjax.estimate_llc(jax.random.key(0), loss, params, jnp.ones(100), gamma=100.0, num_draws=300)
    assert estimate.value < 0
    assert any("no minimum" in message for message in estimate.health.messages)
