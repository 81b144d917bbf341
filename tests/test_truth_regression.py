"""Regression at its empirical minimum: against normal equations, likelihood equations and closed forms."""

from fractions import Fraction as F
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sltjax import truth

CASES = {
    "linear": partial(truth.linear_regression, dim=3, num_examples=40),
    "linear, noise": partial(truth.linear_regression, dim=4, num_examples=50, noise=0.7, correlation=0.9),
    "linear, flat": partial(truth.linear_regression, dim=5, num_examples=50, noise=0.5, flat=2),
    "logistic": partial(truth.logistic_regression, dim=3, num_examples=60),
    "logistic, correlated": partial(truth.logistic_regression, dim=4, num_examples=200, correlation=0.9),
    "logistic, flat": partial(truth.logistic_regression, dim=5, num_examples=100, scale=2.0, flat=2),
}


@pytest.fixture(params=CASES, scope="module")
def case(request):
    return CASES[request.param](jax.random.key(0))


def arrays(case):
    return (np.asarray(a, np.float64) for a in (case.params, case.data["x"], case.data["y"]))


def test_params_solve_the_equations_of_the_minimum(case):
    """Σ_j (predicted_j − y_j) x_j = 0, for both models, and any step away costs."""
    w, x, y = arrays(case)
    predicted = x @ w if np.unique(y).size > 2 else 1 / (1 + np.exp(-x @ w))
    np.testing.assert_allclose(x.T @ (predicted - y) / len(y), 0, atol=2e-6)
    loss = jax.jit(lambda params: jnp.mean(case.loss(params, case.data)))
    steps = 0.1 * np.random.default_rng(0).normal(size=(10, w.size)).astype(np.float32)
    assert min(float(loss(case.params + step)) for step in steps) > float(loss(case.params))


def test_coefficient_is_half_the_rank_of_the_features(case):
    _, x, _ = arrays(case)
    assert (case.llc, case.multiplicity) == (F(int(np.linalg.matrix_rank(x, tol=1e-4)), 2), 1)


def test_params_have_no_part_along_flat_directions(case):
    w, x, _ = arrays(case)
    rows = np.linalg.svd(x)[2][int(2 * case.llc) :]
    np.testing.assert_allclose(rows @ w, 0, atol=1e-6)


def test_shapes_and_dtypes(case):
    assert case.data["x"].shape == (case.num_examples, case.params.size)
    assert case.data["y"].shape == (case.num_examples,)
    assert {leaf.dtype for leaf in jax.tree.leaves((case.params, case.data))} == {jnp.dtype("float32")}
    assert jax.eval_shape(case.loss, case.params, case.data).shape == (case.num_examples,)


def test_linear_loss_is_a_quadratic_about_the_minimum():
    """So that `localized_llc` of the second moments is the λ̂ of its posterior."""
    case = CASES["linear, noise"](jax.random.key(1))
    w, x, _ = arrays(case)
    step = np.array([0.3, -1.0, 0.5, 0.2])
    rise = np.mean(case.loss(jnp.float32(w + step), case.data) - case.loss(case.params, case.data))
    assert rise == pytest.approx(step @ x.T @ x @ step / len(x) / 2, rel=1e-4)


def test_noiseless_labels_are_fitted_exactly():
    case = CASES["linear"](jax.random.key(1))
    assert float(jnp.max(case.loss(case.params, case.data))) < 1e-10


def test_residual_variance_is_that_of_the_noise():
    case = truth.linear_regression(jax.random.key(0), 10, num_examples=20_000, noise=0.5)
    # ½·0.25·(n − d)/n, with relative standard deviation √(2/n)
    assert abs(float(jnp.mean(case.loss(case.params, case.data))) / (0.125 * 0.9995) - 1) < 4 * (2 / 20_000) ** 0.5


@pytest.mark.parametrize("build", [truth.linear_regression, truth.logistic_regression])
def test_features_are_correlated_as_asked(build):
    x = np.asarray(build(jax.random.key(0), 3, num_examples=20_000, correlation=0.6).data["x"])
    np.testing.assert_allclose(np.cov(x.T), 0.4 * np.eye(3) + 0.6, atol=0.05)


def test_logistic_weights_in_one_dimension():
    """With x = ±1 the minimum is the log odds of the labels on the side of x."""
    built = truth.logistic_regression(jax.random.key(0), 1, num_examples=2000, scale=1.5)
    assert abs(abs(float(built.params[0])) - 1.5) < 0.25
    x, y = np.array([1.0, 1.0, 1.0, 1.0, -1.0]), np.array([1.0, 1.0, 1.0, 0.0, 0.0])
    assert truth.regression._newton(x[:, None], y) == pytest.approx(np.log(4))


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (partial(truth.linear_regression, dim=0, num_examples=10), "dim"),
        (partial(truth.linear_regression, dim=3, num_examples=2), "num_examples"),
        (partial(truth.linear_regression, dim=3, num_examples=10, noise=-1.0), "noise"),
        (partial(truth.linear_regression, dim=3, num_examples=10, correlation=1.0), "correlation"),
        (partial(truth.linear_regression, dim=3, num_examples=10, flat=3), "flat"),
        (partial(truth.linear_regression, dim=3, num_examples=10, flat=-1), "flat"),
        (partial(truth.logistic_regression, dim=3, num_examples=10, scale=float("inf")), "scale"),
        (partial(truth.logistic_regression, dim=3, num_examples=100, scale=1e4), "separable"),
        (partial(truth.logistic_regression, dim=20, num_examples=25), "separable"),
        (partial(truth.logistic_regression, dim=3, num_examples=100, correlation=-0.1), "correlation"),
    ],
)
def test_constructors_reject(build, match):
    # Under runtime type checking a wrong type is refused before the function's own check.
    with pytest.raises((ValueError, TypeError), match=match):
        build(jax.random.key(0))
