"""What nβ and γ do to λ̂, against exact answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import assert_agrees

import sltjax
from sltjax.definition import Curve, llc_curve
from sltjax.estimators import (
    directions_held,
    effective_count,
    fit_llc,
    fit_multiplicity,
    unlocalised_llc,
)
from sltjax.truth import finite_nbeta_llc, localized_llc, normal_crossing, quadratic, quasi_homogeneous
from sltjax.types import Estimate, Health

CURVATURES = np.array([0.1, 1.0, 2.0, 5.0])
OCTAVES = 2.0 ** np.arange(-3, 4)
GAMMAS = 10.0 ** np.arange(-1, 2.5, 0.5)
ANCHOR = np.array([0.5, 0.1, -0.1, 0.2])


def bias(nbeta, gamma):
    """−γ·dλ̂/dγ of `localized_llc`."""
    held = nbeta * CURVATURES
    return np.sum(gamma * held / (held + gamma) ** 2) / 2


def quadratic_curve(key, anchor=0.0, **grid):
    truth = quadratic(jax.random.key(0), CURVATURES, num_examples=64, curvature_noise=0.1)
    return llc_curve(jax.random.key(key), truth.loss, truth.params + anchor, truth.data, **grid)


@pytest.fixture(scope="module")
def over_nbeta():
    return quadratic_curve(1)


@pytest.fixture(scope="module")
def over_gamma():
    return quadratic_curve(2, nbeta=150.0, gamma=GAMMAS)


@pytest.fixture(scope="module")
def beside_the_minimum():
    return quadratic_curve(3, anchor=ANCHOR, gamma=1.0)


def assert_all_agree(estimates, exact, cap, bias=0.0):
    for estimate, value in zip(estimates, exact, strict=True):
        assert_agrees(estimate, value, cap, bias)


def test_over_nbeta_on_a_quadratic(over_nbeta):
    assert over_nbeta.axis == "nbeta"
    np.testing.assert_allclose(over_nbeta.x, 64 / np.log(64) * OCTAVES)
    assert np.all(over_nbeta.gamma == 1)
    assert_all_agree(over_nbeta.estimates, [localized_llc(CURVATURES, b, 1.0) for b in over_nbeta.nbeta], 0.03)


def test_over_gamma_on_a_quadratic(over_gamma):
    assert over_gamma.axis == "gamma"
    assert np.all(over_gamma.nbeta == 150)
    assert_all_agree(over_gamma.estimates, [localized_llc(CURVATURES, 150.0, g) for g in GAMMAS], 0.03)


def test_grid_points_have_noise_of_their_own(over_gamma):
    chains = over_gamma.trace["delta_loss"].mean(axis=1)
    assert np.abs(np.corrcoef(chains) - np.eye(len(GAMMAS))).max() < 0.15


def test_the_bias_of_localisation_is_put_back(over_gamma):
    exact = [localized_llc(CURVATURES, 150.0, g) + bias(150.0, g) for g in GAMMAS]
    assert_all_agree(over_gamma.unlocalised(), exact, 0.05)
    assert exact[3] - over_gamma.value[3] > 0.5 * (2 - over_gamma.value[3])


def test_two_temperatures_need_no_minimum(beside_the_minimum):
    curve = beside_the_minimum
    assert np.all(curve.value[-3:] < 0)
    assert any("no minimum" in said for said in curve.messages)
    first, second = 2, 6
    nbeta = float(curve.nbeta[first]), float(curve.nbeta[second])
    found = sltjax.two_temperature_llc(curve.at(first), curve.at(second), nbeta)
    losses = [np.sum(CURVATURES * (1 / a + (ANCHOR / a) ** 2)) / 2 for a in (b * CURVATURES + 1 for b in nbeta)]
    assert_agrees(found, (losses[0] - losses[1]) / (1 / nbeta[0] - 1 / nbeta[1]), cap=0.03)
    assert found.health.ok


@pytest.mark.slow
def test_nbeta_does_not_matter_to_a_quasi_homogeneous_loss():
    truth = quasi_homogeneous(jax.random.key(0), [2, 4], num_examples=64)
    curve = llc_curve(jax.random.key(1), truth.loss, truth.params, truth.data, nbeta=100 * OCTAVES, gamma=1e-3)
    assert_all_agree(curve.estimates, [float(truth.llc)] * 7, 0.03, bias=0.002)
    plateau = curve.plateau()
    assert (plateau.low, plateau.high) == (curve.nbeta[0], curve.nbeta[-1])
    assert_agrees(plateau, float(truth.llc), 0.015, bias=0.002)
    assert abs(plateau.slope) < 4 * plateau.slope_error
    assert plateau.messages == ()


def crossing(w):
    return w[..., 0] ** 2 * w[..., 1] ** 2


@pytest.mark.slow
def test_multiplicity_shows_over_nbeta():
    truth = normal_crossing(jax.random.key(0), [1, 1], num_examples=64)
    curve = llc_curve(
        jax.random.key(1), truth.loss, truth.params, truth.data, nbeta=64 * OCTAVES, thin=10, num_draws=4000
    )
    exact = [finite_nbeta_llc(crossing, float(b), [(-8.0, 8.0)] * 2, gamma=1.0) for b in curve.nbeta]
    assert_all_agree(curve.estimates, exact, 0.05)
    fit = fit_llc(curve.nbeta, curve.value, curve.std_error, 2)
    assert fit.llc_error < 0.05 * 0.5
    assert abs(fit.llc - 0.5) < 4 * fit.llc_error
    assert fit.chi_square < 20


@pytest.mark.slow
def test_a_sampler_of_ones_own_may_have_one_step_size_a_grid_point():
    nbeta = 100 * 2.0 ** np.arange(3)
    truth = quadratic(jax.random.key(0), CURVATURES, num_examples=600, gradient_noise=0.3)
    sampler = sltjax.LeimkuhlerMatthews(0.5 / (5 * nbeta + 1))
    arguments = (jax.random.key(1), truth.loss, truth.params, truth.data)
    curve = llc_curve(*arguments, nbeta=nbeta, sampler=sampler, num_draws=4000, thin=20, burn_in=10_000)
    assert_all_agree(curve.estimates, [localized_llc(CURVATURES, b, 1.0) for b in nbeta], 0.05)


# estimators on draws of a Gaussian posterior, correlated as those of chains are


def gaussian_trace(rng, nbeta, gamma, draws=2000, rho=0.5):
    noise = rng.normal(size=(draws, 4, len(CURVATURES)))
    w = np.empty_like(noise)
    w[0] = noise[0]
    for t in range(1, draws):
        w[t] = rho * w[t - 1] + np.sqrt(1 - rho**2) * noise[t]
    w = w.swapaxes(0, 1) / np.sqrt(nbeta * CURVATURES + gamma)
    return {"delta_loss": (w**2) @ CURVATURES / 2, "distance": np.linalg.norm(w, axis=-1)}


def assert_calibrated(estimates, exact):
    """Values within their errors, and errors as large as the values scatter."""
    values, errors = (np.array([getattr(x, name) for x in estimates]) for name in ("value", "std_error"))
    assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(len(values)) + 0.01 * abs(exact)
    assert 0.8 < np.median(errors) / values.std() < 1.5


def test_localisation_bias_and_its_error():
    rng = np.random.default_rng(0)
    traces = [gaussian_trace(rng, 100.0, 50.0) for _ in range(60)]
    exact = bias(100.0, 50.0)
    assert_calibrated([sltjax.localisation_bias(trace, 100.0, 50.0) for trace in traces], exact)
    assert_calibrated(
        [unlocalised_llc(trace, 100.0, 50.0) for trace in traces], exact + localized_llc(CURVATURES, 100.0, 50.0)
    )
    step = 0.01
    ends = (localized_llc(CURVATURES, 100.0, 50.0 * np.exp(side)) for side in (step, -step))
    assert -np.subtract(*ends) / (2 * step) == pytest.approx(exact, rel=1e-4)


def test_directions_that_the_loss_holds_and_that_localisation_holds_make_up_all():
    rng = np.random.default_rng(0)
    count = effective_count(CURVATURES, 100.0, 50.0)
    assert count == pytest.approx(2 * localized_llc(CURVATURES, 100.0, 50.0))
    assert effective_count([0.0, 1.0], 10.0, 0.0) == 1
    assert_calibrated([directions_held(gaussian_trace(rng, 100.0, 50.0), 50.0) for _ in range(60)], 4 - count)


def test_a_failed_chain_is_left_out_of_the_bias():
    trace = gaussian_trace(np.random.default_rng(0), 100.0, 50.0)
    broken = {name: x.copy() for name, x in trace.items()}
    broken["distance"][1, 700:] = np.inf
    found = sltjax.localisation_bias(broken, 100.0, 50.0)
    without = sltjax.localisation_bias({name: x[[0, 2, 3]] for name, x in trace.items()}, 100.0, 50.0)
    assert found.value == pytest.approx(without.value, rel=1e-5)
    assert found.health.failed_draw.tolist() == [-1, 700, -1, -1]
    nothing = {name: np.full_like(x, np.nan) for name, x in trace.items()}
    assert np.isnan(sltjax.localisation_bias(nothing, 100.0, 50.0).value)


def test_two_temperatures_and_their_error():
    rng = np.random.default_rng(0)

    def found():
        return sltjax.two_temperature_llc(
            gaussian_trace(rng, 50.0, 0.0), gaussian_trace(rng, 400.0, 0.0), (50.0, 400.0)
        )

    estimates = [found() for _ in range(60)]
    assert_calibrated(estimates, 2.0)
    assert np.nanmean(estimates[0].per_chain) == pytest.approx(estimates[0].value, rel=1e-4)


def test_two_temperatures_tell_what_is_wrong_at_which():
    rng = np.random.default_rng(0)
    good, drifting = gaussian_trace(rng, 50.0, 0.0), gaussian_trace(rng, 400.0, 0.0)
    drifting["delta_loss"] += np.linspace(0, 1, 2000)
    found = sltjax.two_temperature_llc(good, drifting, (50.0, 400.0))
    assert found.value < 0
    assert any(said.startswith("at nβ = 400: still drifting") for said in found.health.messages)
    assert any("rises with nβ" in said for said in found.health.messages)
    assert not any("no minimum" in said or "nβ = 50:" in said for said in found.health.messages)


def test_multiplicity_correction():
    nbeta = np.array([1e2, 1e4])
    np.testing.assert_allclose(sltjax.multiplicity_correction(0.5 - 1 / np.log(nbeta), nbeta, 2), 0.5)
    assert sltjax.multiplicity_correction(0.7, 100.0, 1) == 0.7
    value = finite_nbeta_llc(crossing, 1e3, [(-1.0, 1.0)] * 2)
    assert sltjax.multiplicity_correction(value, 1e3, 2) == pytest.approx(0.532, abs=1e-3)
    assert sltjax.multiplicity_correction(value, 1e3, 2, offset=1.96) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("gamma", [0.1, 1.0])
def test_a_curve_and_the_multiplicity_give_lambda(gamma):
    nbeta = 1000 * OCTAVES
    exact = np.array(
        [finite_nbeta_llc(crossing, float(b), [(-8 / gamma**0.5, 8 / gamma**0.5)] * 2, gamma) for b in nbeta]
    )
    fit = fit_llc(nbeta, exact, 0.002 * exact, 2)
    assert fit.llc == pytest.approx(0.5, rel=0.01)
    assert fit.llc_error < 0.01
    assert fit.chi_square < 0.5
    assert fit_multiplicity(nbeta, exact, 0.002 * exact).llc < 0.95 * 0.5


def test_fits_and_their_errors():
    rng = np.random.default_rng(0)
    nbeta, error = 1000 * OCTAVES, np.full(7, 0.01)
    mean = 2.0 - 2 / np.log(nbeta)

    def fits(fit):
        return [fit(nbeta, mean + error * rng.normal(size=7)) for _ in range(200)]

    joint = fits(lambda x, y: fit_multiplicity(x, y, error))
    for name, exact in (("llc", 2.0), ("multiplicity", 3.0)):
        values, errors = (np.array([getattr(fit, n) for fit in joint]) for n in (name, f"{name}_error"))
        assert abs(values.mean() - exact) < 4 * errors[0] / np.sqrt(200)
        assert values.std() == pytest.approx(errors[0], rel=0.2)
    assert np.mean([fit.chi_square for fit in joint]) == pytest.approx(5, rel=0.2)
    known = fits(lambda x, y: fit_llc(x, y, error, 3))
    assert np.mean([abs(fit.llc - 2) < 2 * fit.llc_error for fit in known]) > 0.9
    flat = fit_llc(nbeta, np.full(7, 1.5), error, 1)
    assert (flat.llc, flat.llc_error) == pytest.approx((1.5, 0.01 / np.sqrt(7)))


# the plateau, on curves written down


def curve(value, error=0.01, unwell=(), x=None):
    value = np.array(value, float)
    x = 10.0 ** np.arange(len(value)) if x is None else x
    fine = np.full(4, -1), 1.0, 1000.0, 0.0
    estimates = tuple(
        Estimate(v, e, np.full(4, v), Health(*fine, ("drifting",) if i in unwell else ()))
        for i, (v, e) in enumerate(zip(value, np.broadcast_to(error, value.shape), strict=True))
    )
    draws = np.random.default_rng(0).normal(size=(len(value), 4, 50))
    return Curve(np.full(len(value), 100.0), x, {"delta_loss": draws, "distance": np.abs(draws)}, estimates)


def test_a_plateau_ends_where_the_value_leaves_it():
    found = curve([2.0, 2.01, 1.99, 2.0, 1.7, 1.2]).plateau()
    assert (found.low, found.high) == (1, 1000)
    assert found.value == pytest.approx(2.0)
    assert found.std_error == pytest.approx(0.005)
    assert found.messages == ()


def test_the_widest_plateau_is_taken():
    found = curve([3.0, 3.0, 3.0, 2.0, 2.0, 2.0, 2.0]).plateau(tolerance=0.0)
    assert (found.low, found.high) == (1e3, 1e6)


def test_a_slope_that_neighbours_do_not_show_is_no_plateau():
    slow = 2.0 - 0.08 * np.arange(7)
    assert 0.08 < 3 * np.hypot(0.03, 0.03) < 0.16
    assert curve(slow, error=0.03).plateau(tolerance=0.0) is None
    within = curve(slow, error=0.001).plateau(tolerance=0.06)
    assert (within.low, within.high) == (1, 1e6)
    assert within.slope == pytest.approx(-0.08)
    assert within.std_error > 0.01
    assert within.messages == ()
    assert "not shown to be flat" in curve(slow, error=0.05).plateau(tolerance=0.04).messages[0]


def test_noise_that_hides_a_slope_is_told():
    (said,) = curve([2.0, 1.5, 2.2], error=0.4).plateau().messages
    assert "not shown to be flat: its slope is +0.1 ± 0.28 for each factor of ten, where 0.095 is allowed" in said
    assert "raise num_draws" in said


def test_points_with_a_warning_count_and_are_told():
    drifting = curve([2.0] * 4, unwell=(1,))
    assert drifting.messages == ("gamma = 10: drifting",)
    assert drifting.ok.tolist() == [True, False, True, True]
    (said,) = drifting.plateau().messages
    assert "1 of its 4 points carry a warning" in said


def test_a_failed_point_ends_a_plateau():
    found = curve([2.0, 2.0, 2.0, np.nan, 2.0, 2.0], error=[0.01, 0.01, 0.01, np.nan, 0.01, 0.01]).plateau()
    assert (found.low, found.high) == (1, 100)
    assert curve([2.0, np.nan, 2.0, 2.0]).plateau() is None


# what cannot work


DATA = jnp.ones((20, 2))


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ("both sequences", {"nbeta": [1.0, 2.0], "gamma": [1.0, 2.0]}),
        ("expected a sequence for one", {"nbeta": 1.0, "gamma": 1.0}),
        ("nbeta: got .* ascending order", {"nbeta": [2.0, 1.0]}),
        ("nbeta: got .* at least two positive", {"nbeta": [1.0]}),
        ("gamma: got .* positive numbers", {"gamma": [0.0, 1.0]}),
        ("gamma: got .* positive numbers", {"gamma": [1.0, np.inf]}),
        ("gamma: got .* positive numbers", {"gamma": np.ones((2, 2))}),
        ("nbeta must be positive", {"nbeta": -1.0, "gamma": [1.0, 2.0]}),
        ("gamma must be finite and not negative", {"gamma": -1.0}),
        (
            "accepts or rejects by U over the full data: set batch_size to 20",
            {"sampler": sltjax.GHMC(1.0), "batch_size": 10},
        ),
        ("num_chains must be at least 2", {"num_chains": 1}),
        ("do not average over the batch", {"loss": lambda w, x: jnp.mean((x @ w) ** 2)}),
    ],
)
def test_a_curve_that_cannot_be_is_refused(said, changes):
    arguments = {"loss": lambda w, x: (x @ w) ** 2, "params": jnp.ones(2), "data": DATA, **changes}
    with pytest.raises(ValueError, match=said):
        llc_curve(jax.random.key(0), *(arguments.pop(name) for name in ("loss", "params", "data")), **arguments)


TRACE = {"delta_loss": np.ones((4, 10)), "distance": np.ones((4, 10))}
ONES = np.ones(3)


@pytest.mark.parametrize(
    ("said", "call"),
    [
        ("tolerance: got -1", lambda: curve([1.0, 1.0, 1.0]).plateau(-1.0)),
        ("expected 'distance'", lambda: sltjax.localisation_bias({"delta_loss": np.ones((4, 10))}, 1.0, 1.0)),
        ("no localisation", lambda: sltjax.localisation_bias(TRACE, 1.0, 0.0)),
        ("nbeta: got 0", lambda: sltjax.localisation_bias(TRACE, 0.0, 1.0)),
        ("no localisation", lambda: directions_held(TRACE, 0.0)),
        ("curvatures: got", lambda: effective_count([-1.0], 1.0, 1.0)),
        ("two different positive", lambda: sltjax.two_temperature_llc(TRACE, TRACE, (1.0, 1.0))),
        ("two different positive", lambda: sltjax.two_temperature_llc(TRACE, TRACE, (0.0, 1.0))),
        ("4 and 2 chains", lambda: sltjax.two_temperature_llc(TRACE, {"delta_loss": np.ones((2, 10))}, (1.0, 2.0))),
        ("whole number", lambda: sltjax.multiplicity_correction(1.0, 100.0, 0)),
        ("log nβ", lambda: sltjax.multiplicity_correction(1.0, 0.5, 2)),
        ("at least 3", lambda: fit_llc(ONES[:2], ONES[:2], ONES[:2], 2)),
        ("leave out the points", lambda: fit_llc(ONES, np.nan * ONES, ONES, 2)),
        ("log nβ", lambda: fit_multiplicity(np.array([0.5, 1.0, 2.0]), ONES, ONES)),
    ],
)
def test_misuse_is_told(said, call):
    with pytest.raises(ValueError, match=said):
        call()
