"""Covariances of losses along chains, against exact ones of a Bayesian linear regression."""

import sys

import jax
import numpy as np
import pytest

import sltjax
from sltjax import observables
from sltjax.estimators import (
    bayesian_influence,
    correlation,
    covariance,
    covariances,
    kernel_pca,
    loss_kernel,
    spectral_embedding,
    strongest,
    umap_embedding,
)
from sltjax.sampling import condition_all, sample_block
from sltjax.schedule import Schedule

NBETA, GAMMA, SEEDS, QUERIES = 8.0, 1.0, 100, 3
RNG = np.random.default_rng(0)
X = RNG.standard_normal((12, 2)).astype(np.float32)
DATA = {"x": X, "y": (X @ np.array([1.0, -0.5]) + 0.5 * RNG.standard_normal(12)).astype(np.float32)}
ANCHOR = np.linalg.lstsq(X, DATA["y"], rcond=None)[0].astype(np.float32)


def loss(w, batch):
    return 0.5 * (batch["y"] - batch["x"] @ w) ** 2


def law(weights):
    """Mean and covariance of w under exp(−(nβ/n)·Σ weight·ℓ − γ/2·|w − w*|²)."""
    x, y = X.astype(float), DATA["y"].astype(float)
    precision = NBETA / 12 * x.T @ (weights[:, None] * x) + GAMMA * np.eye(2)
    return np.linalg.solve(precision, NBETA / 12 * x.T @ (weights * y) + GAMMA * ANCHOR), np.linalg.inv(precision)


def mean_losses(weights):
    mean, spread = law(weights)
    return 0.5 * ((DATA["y"] - X @ mean) ** 2 + np.einsum("id,de,ie->i", X, spread, X))


def exact_covariance():
    """Of ½r_i² and ½r_j² for normal r: ½S_ij² + r̄_i·r̄_j·S_ij."""
    mean, spread = law(np.ones(12))
    residual, s = DATA["y"] - X @ mean, X @ spread @ X.T
    return s**2 / 2 + np.outer(residual, residual) * s


@pytest.fixture(scope="module")
def seeds():
    """A hundred runs that differ by noise alone: [seed, chain, draw, example], neighbours correlated."""
    posterior = sltjax.LocalPosterior(loss, np.tile(ANCHOR, (SEEDS, 1)), NBETA, GAMMA)
    schedule = Schedule(num_chains=4, num_draws=600, burn_in=200, thin=1, batch_size=12)
    recorded = {"losses": observables.losses(loss, DATA)}
    posteriors = condition_all(posterior, DATA, 12)
    sampler = sltjax.MALA(0.15)
    trace = sample_block(jax.random.key(1), posteriors, np.arange(SEEDS), sampler, DATA, schedule, recorded)
    return trace["losses"]


@pytest.fixture(scope="module")
def losses(seeds):
    """One long run: the draws of all seeds, four chains of them."""
    return np.concatenate(seeds, axis=1)


@pytest.fixture(scope="module")
def short(seeds):
    return seeds[0].astype(np.float64)


def test_influence_is_exact_on_a_regression(losses):
    found, exact = bayesian_influence(losses), -exact_covariance()
    assert (np.abs(found.value - exact) < 4 * found.std_error).all()
    assert (found.std_error < 0.03 * np.abs(exact).max()).all()
    assert found.health.ok


def test_exact_influence_is_the_derivative_by_the_weight_of_an_example():
    """So that the test above is one of leaving examples out, to first order."""
    derivative = np.empty((12, 12))
    for i in range(12):
        up, down = np.ones(12), np.ones(12)
        up[i], down[i] = 1 + 1e-4, 1 - 1e-4
        derivative[i] = (mean_losses(up) - mean_losses(down)) / 2e-4
    np.testing.assert_allclose(derivative, -NBETA / 12 * exact_covariance(), rtol=1e-4, atol=1e-6)


def test_leaving_an_example_out_changes_losses_as_influence_says(losses):
    found, whole = bayesian_influence(losses), mean_losses(np.ones(12))
    changes = np.stack([mean_losses(1.0 - np.eye(12)[i]) - whole for i in range(12)])
    assert np.corrcoef(changes.ravel(), -found.value.ravel() * NBETA / 12)[0, 1] > 0.95


def test_correlation_is_exact_on_a_regression(losses):
    found, exact = correlation(losses[:, :, :QUERIES], losses), exact_covariance()
    exact = (exact / np.sqrt(np.outer(np.diag(exact), np.diag(exact))))[:QUERIES]
    off = np.arange(QUERIES)[:, None] != np.arange(12)
    assert (np.abs(found.value - exact) < 4 * found.std_error)[off].all()
    assert (found.std_error[off] < 0.02).all()
    np.testing.assert_allclose(found.value[~off], 1, atol=1e-12)


@pytest.mark.parametrize("measure", [covariance, correlation])
def test_intervals_hold_the_exact_value_as_often_as_they_say(seeds, measure):
    exact = exact_covariance()
    if measure is correlation:
        exact = exact / np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    found = [measure(run[:, :, :QUERIES], run[:, :, QUERIES:]) for run in seeds]
    error, spread = np.stack([f.std_error for f in found]), np.std([f.value for f in found], axis=0)
    away = np.abs(np.stack([f.value for f in found]) - exact[:QUERIES, QUERIES:]) / error
    assert 0.92 < np.mean(away < 1.96) < 0.99
    assert (np.abs(np.mean(away < 1.96, axis=0) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / SEEDS)).all()
    np.testing.assert_allclose(np.sqrt(np.mean(error**2, axis=0)), spread, rtol=0.35)


def test_tiles_and_pieces_change_nothing(short, monkeypatch):
    whole = correlation(short, short[:, :, :5])
    monkeypatch.setattr(covariances, "TILE_BYTES", 5000)
    monkeypatch.setattr(covariances, "PIECE_BYTES", 5000)
    tiled = correlation(short, short[:, :, :5])
    np.testing.assert_allclose(tiled.value, whole.value, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(tiled.std_error, whole.std_error, rtol=1e-8, atol=1e-12)


def test_value_is_that_of_all_draws(short):
    flat = short.reshape(-1, 12)  # 600 draws do not divide into 16 blocks
    np.testing.assert_allclose(covariance(short).value, np.cov(flat.T, bias=True), rtol=1e-10)
    np.testing.assert_allclose(correlation(short).value, np.corrcoef(flat.T), rtol=1e-10)


def test_noise_that_chains_share_is_in_the_error():
    rng = np.random.default_rng(1)
    shared = np.tile(rng.standard_normal((1, 600, 2)), (4, 1, 1)) + 0.01 * rng.standard_normal((4, 600, 2))
    assert covariance(shared).std_error[0, 1] == pytest.approx(1 / np.sqrt(600), rel=0.4)


def test_a_lost_chain_is_left_out_and_named(short):
    some = short.copy()
    some[1, 40:, 3] = np.nan
    found = covariance(some)
    np.testing.assert_allclose(found.value, covariance(np.delete(some, 1, axis=0)).value)
    assert "1 of 4 chains left the finite numbers" in found.health.messages[0]
    assert found.health.failed_draw.tolist() == [-1, 40, -1, -1]
    np.testing.assert_allclose(
        covariance(short, some).value, covariance(*(np.delete(x, 1, 0) for x in (short, some))).value
    )
    some[:, 40:, 3] = np.nan
    assert np.isnan(covariance(some).value).all()


def test_what_never_moves_has_no_error(short):
    some = short.copy()
    some[..., 1] = 2.0
    found = covariance(some)
    assert (found.value[1] == 0).all()
    assert np.isnan(found.std_error[1]).all()
    assert np.isnan(correlation(some).value[1]).all()
    with pytest.raises(ValueError, match="not finite for 1 of 12 examples"):
        kernel_pca(loss_kernel(some))


def test_other_chains_are_refused(short):
    with pytest.raises(ValueError, match="along the same chains"):
        covariance(short, short[:, :100])


def test_strongest_are_those_of_the_full_matrix(short, monkeypatch):
    full, found = correlation(short), strongest(short, k=3)
    monkeypatch.setattr("sltjax.estimators.influence.TILE", 5)
    assert (found.index[:, 0] == np.arange(12)).all()
    np.testing.assert_array_equal(found.index, np.argsort(-np.abs(full.value), axis=1)[:, :3])
    np.testing.assert_allclose(found.value, np.take_along_axis(full.value, found.index, 1))
    np.testing.assert_array_equal(strongest(short, k=3).index, found.index)
    with pytest.raises(ValueError, match="expected 1 to 12"):
        strongest(short, k=13)


@pytest.mark.parametrize("measure", [covariance, correlation])
def test_kernel_is_positive_and_its_eigenvectors_give_it_back(short, measure):
    kernel = loss_kernel(short, measure)
    assert np.linalg.eigvalsh(kernel.value).min() > -1e-10
    whole = spectral_embedding(kernel, 12).coordinates
    np.testing.assert_allclose(whole @ whole.T, kernel.value, atol=1e-9)
    few = spectral_embedding(kernel, 2)
    np.testing.assert_allclose(np.abs(few.coordinates), np.abs(whole[:, :2]), atol=1e-9)
    assert spectral_embedding(kernel, 12).explained.sum() == pytest.approx(1)


def test_kernel_pca_keeps_the_distances_of_losses_over_draws(short):
    kernel = loss_kernel(short, covariance)
    found = kernel_pca(kernel, 11)  # of 12 points about their mean
    apart = short[..., 0] - short[..., 7]
    distance = np.sum((found.coordinates[0] - found.coordinates[7]) ** 2)
    assert distance == pytest.approx(np.var(apart), rel=1e-6)
    assert found.explained.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="num_components: got 13, expected 1 to 12"):
        kernel_pca(kernel, 13)


def test_umap_says_how_to_get_it(short, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r"pip install 'sltjax\[umap\]'"):
        umap_embedding(loss_kernel(short))
