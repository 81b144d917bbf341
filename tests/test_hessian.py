"""The spectrum of the Hessian, against matrices whose spectrum is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import sltjax
from sltjax.estimators.hessian import HessianSpectrum
from sltjax.truth import deep_linear, deep_linear_apply, localized_llc
from sltjax.types import Estimate, Health

D = 300
SMALL = {"num_probes": 8, "num_products": 24, "num_top": 6}
# "gaps" has ties and a negative value, "crowded" more about 0 than runs of this length can tell apart
SPECTRA = {
    "even": np.linspace(0.1, 1.0, D),
    "gaps": np.concatenate([[-2.0], np.zeros(D - 11), [0.5, 0.5, 0.5, 1.0, 3.0, 3.0, 3.0, 7.0, 7.0, 9.0]]),
    "rank 2": np.concatenate([np.zeros(D - 2), [1.0, 10.0]]),
    "multiple of 1": np.full(D, 2.0),
    "zero": np.zeros(D),
    "crowded": np.concatenate([np.logspace(-5, 0, D - 20), -np.logspace(-5, -1, 20)]),
    "negative": -np.linspace(1.0, 2.0, D),
}


def quadratic_loss(params, batch):
    """½ Σ h_i ⟨u_i, w⟩² in every example, about 0, in coordinates that hide the axes; h comes with the data."""
    rotated = params["a"] - 2 * batch["mirror"] * (batch["mirror"] @ params["a"])[:, None]
    return jnp.sum(batch["h"] * rotated**2, axis=-1) / 2


def quadratic_data(h):
    mirror = np.random.default_rng(0).normal(size=len(h))
    rows = {"h": h, "mirror": mirror / np.linalg.norm(mirror)}
    return {name: jnp.broadcast_to(jnp.float32(x), (3, len(h))) for name, x in rows.items()}


def spectrum_of(h, key=0, **sizes):
    return sltjax.hessian_spectrum(
        jax.random.key(key), quadratic_loss, {"a": np.zeros(len(h))}, quadratic_data(h), **(SMALL | sizes)
    )


@pytest.fixture(scope="module")
def found():
    return {name: spectrum_of(h) for name, h in SPECTRA.items()}


@pytest.mark.parametrize("name", SPECTRA)
def test_trace_and_effective_count(found, name):
    h, spectrum = SPECTRA[name], found[name]
    assert not spectrum.is_exact
    rounding = 1e-4 * np.abs(h).max()
    assert abs(spectrum.trace.value - h.sum()) <= 4 * spectrum.trace.std_error + D * rounding
    # of random vectors on the sphere, exactly
    scatter = np.sqrt(2 * D / (D + 2) * (np.sum(h**2) - h.sum() ** 2 / D) / SMALL["num_probes"])
    assert spectrum.trace.std_error <= 2 * scatter + D * rounding
    count = spectrum.effective_count(50.0, 1.0)
    held = np.maximum(50 * h, 0)
    assert abs(count.value - np.sum(held / (held + 1))) < 4 * count.std_error + 0.01
    assert count.std_error < 10
    np.testing.assert_allclose(spectrum.weights.sum(axis=-1), D, rtol=1e-4)


@pytest.mark.parametrize("name", SPECTRA)
def test_the_largest_eigenvalues_with_their_multiplicity(found, name):
    h, spectrum = np.sort(SPECTRA[name])[::-1][:6], found[name]
    assert np.all(np.abs(spectrum.top - h) <= spectrum.top_error + 1e-4 * np.abs(SPECTRA[name]).max())
    assert np.all(spectrum.top_error <= 0.01 * np.abs(SPECTRA[name]).max())


@pytest.mark.parametrize(
    ("name", "threshold", "cap"),
    [("gaps", None, 4), ("rank 2", None, 2), ("gaps", 2.5, 3), ("even", 0.5, 40), ("crowded", 1e-2, 40)],
)
def test_rank(found, name, threshold, cap):
    exact = np.sum(np.abs(SPECTRA[name]) > (threshold or 1e-6))
    rank = found[name].rank(threshold)
    assert abs(rank.value - exact) < 4 * rank.std_error
    assert rank.std_error < cap


def test_no_rank_at_all(found):
    assert found["zero"].rank().value == 0
    assert found["multiple of 1"].rank().value == pytest.approx(D, rel=1e-4)


def test_errors_are_as_large_as_the_scatter():
    h = SPECTRA["gaps"]
    many = [spectrum_of(h, key) for key in range(40)]
    for read, exact in (
        (lambda s: s.trace, h.sum()),
        (lambda s: s.rank(), 11),
        (lambda s: s.effective_count(5.0, 1.0), np.sum(np.maximum(5 * h, 0) / (np.maximum(5 * h, 0) + 1))),
    ):
        values, errors = (np.array([getattr(read(s), name) for s in many]) for name in ("value", "std_error"))
        assert np.mean(np.abs(values - exact) < 2.36 * errors) >= 0.9  # Student's t of eight probes
        assert abs(values.mean() - exact) < 4 * np.median(errors) / np.sqrt(len(values))
        assert 0.7 < np.sqrt(np.mean(errors**2)) / values.std() < 1.4


def test_density_integrates_to_the_number_of_eigenvalues(found):
    x = np.linspace(-5, 12, 4001)
    density = found["gaps"].density(x, 0.1)
    assert np.trapezoid(density.value, x) == pytest.approx(D, rel=1e-3)
    inside = np.trapezoid(np.where(x > 6, density.value, 0), x)
    assert abs(inside - 3) < 4 * np.sqrt(2 * 3 / SMALL["num_probes"])


# a deep linear network, exactly


def network(loss=None, **sizes):
    truth = deep_linear(jax.random.key(0), (4, 3, 4), 2, num_examples=50)
    spectrum = sltjax.hessian_spectrum(jax.random.key(1), loss or truth.loss, truth.params, truth.data, **sizes)
    flat, unravel = ravel_pytree(truth.params)
    dense = jax.hessian(lambda w: jnp.mean(truth.loss(unravel(w), truth.data)))(flat)
    return truth, spectrum, np.linalg.eigvalsh(np.asarray(dense, np.float64))


@pytest.mark.slow
def test_a_small_network_is_exact_whatever_the_pieces():
    truth, spectrum, exact = network(piece=16)
    assert spectrum.is_exact
    np.testing.assert_allclose(spectrum.nodes[0, 0], exact, atol=1e-4 * exact.max())
    np.testing.assert_allclose(spectrum.top, exact[::-1][:10], atol=1e-4 * exact.max())
    assert spectrum.trace.std_error == 0
    assert spectrum.trace.value == pytest.approx(exact.sum(), rel=1e-4)
    rank = spectrum.rank()
    assert (rank.value, rank.std_error) == (2 * (4 + 4 - 2), 0)
    assert rank.value / 2 <= truth.llc


def test_the_behavioral_loss_has_its_hessian_at_its_anchor():
    behavioral, plain = (
        network(loss, piece=16)[1] for loss in (sltjax.behavioral_loss(lambda w, b: deep_linear_apply(w, b["x"])), None)
    )
    np.testing.assert_allclose(behavioral.nodes, plain.nodes, atol=1e-4 * plain.nodes.max())


def test_a_part_and_several_checkpoints_at_once():
    truth, whole, _ = network()
    doubled = [2 * w for w in truth.params]
    first = sltjax.hessian_spectrum(
        jax.random.key(0), truth.loss, truth.params, truth.data, select=lambda w: w[0], num_top=2
    )
    assert first.nodes.shape == (1, 1, 12)
    assert first.trace.value < whole.trace.value
    both = sltjax.hessian_spectra(jax.random.key(1), truth.loss, [truth.params, doubled], truth.data)
    np.testing.assert_allclose(both[0].nodes, whole.nodes, atol=1e-4 * whole.nodes.max())
    assert both[1].trace.value > 2 * both[0].trace.value


def test_lanes_are_what_each_is_alone():
    h, start = SPECTRA["even"], {"a": np.zeros(D)}
    pair = [start, {"a": np.ones(D)}]  # of a quadratic, the Hessian is the same everywhere
    both = sltjax.hessian_spectra(jax.random.key(0), quadratic_loss, pair, quadratic_data(h), **SMALL)
    alone = spectrum_of(h)
    for spectrum in both:
        assert spectrum.trace.value == pytest.approx(alone.trace.value, rel=1e-4)
        np.testing.assert_allclose(spectrum.top, alone.top, rtol=1e-3)


def estimate(value, error):
    return Estimate(value, error, np.full(4, value), Health(np.full(4, -1), 1.0, 400.0, 0.0, ()))


def test_an_llc_below_half_the_rank_is_told():
    h = np.array([0.0, 1.0, 2.0])
    spectrum = HessianSpectrum(h[None, None], np.ones((1, 1, 3)), h[::-1], np.zeros(3))
    exact = localized_llc(h, 100.0, 1.0)
    assert spectrum.effective_count(100.0, 1.0).value / 2 == pytest.approx(exact)
    assert sltjax.with_rank_check(estimate(exact - 0.03, 0.01), spectrum, 100.0, 1.0).health.ok
    (said,) = sltjax.with_rank_check(estimate(exact - 0.05, 0.01), spectrum, 100.0, 1.0).health.messages
    assert f"below half the effective rank of the Hessian, {exact:.4g}" in said


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: spectrum_of(SPECTRA["even"], num_probes=1), "num_probes: got 1, expected at least 2"),
        (lambda: sltjax.hessian_spectra(jax.random.key(0), quadratic_loss, [], quadratic_data(np.ones(2))), "got none"),
        (lambda: spectrum_of(np.ones(2)).rank(-1.0), "threshold: got -1.0"),
        (lambda: spectrum_of(np.ones(2)).effective_count(10.0, 0.0), "gamma: got 0.0"),
        (lambda: spectrum_of(np.ones(2)).density(np.zeros(2), 0.0), "width: got 0.0"),
    ],
)
def test_what_cannot_work_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
