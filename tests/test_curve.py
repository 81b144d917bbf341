import numpy as np
import pytest
import xarray as xr
from synthetic import even, logarithmic, run, staircase

from sltjax.development import milestones, smooth


def test_smooth_recovers_a_smooth_curve_and_its_slope_within_the_posterior():
    step, rng = logarithmic(60), np.random.default_rng(0)
    truth = 20 + 5 * np.sin(np.log1p(step) / 2)
    value = truth + 0.5 * rng.standard_normal(60)
    curve = smooth(run(step, value, 0.5, failed={7: "NaN"}))
    away = (np.interp(step, curve["step"], curve["mean"]) - truth) / np.interp(step, curve["step"], curve["sd"])
    assert np.mean(np.abs(away) < 2) > 0.8
    assert curve["sd"].max() < 0.6
    assert curve["curve"].dims == curve["slope"].dims == ("draw", "grid")
    np.testing.assert_allclose(curve["curve"].mean("draw"), curve["mean"], atol=0.1)
    np.testing.assert_allclose(curve["curve"].std("draw"), curve["sd"], rtol=0.15)
    exact = 2.5 * np.cos(np.log1p(curve["step"]) / 2)
    off = (curve["slope"].mean("draw") - exact) / curve["slope"].std("draw")
    assert np.mean(np.abs(off) < 2) > 0.8


def test_smooth_finds_noise_that_the_errors_leave_out():
    value = 20 + 1.0 * np.random.default_rng(0).standard_normal(100)
    assert smooth(run(even(100), value, 0.1)).attrs["excess"] == pytest.approx(1.0, rel=0.25)
    assert smooth(run(even(100), value, 1.0)).attrs["excess"] < 0.4


def test_smooth_fits_the_noise_of_a_series_without_errors():
    step = logarithmic(80)
    loss = 3 - 0.2 * np.log1p(step) + 0.05 * np.random.default_rng(0).standard_normal(80)
    curve = smooth(run(step, np.ones(80), 0.1, loss=loss), "loss")
    assert curve.attrs["series"] == "loss"
    assert curve.attrs["excess"] == pytest.approx(0.05, rel=0.25)
    assert float(curve["slope"].mean()) == pytest.approx(-0.2, abs=0.02)


def test_smooth_widens_across_a_gap():
    value = 20 + 0.3 * np.random.default_rng(0).standard_normal(60)
    whole, gap = (
        smooth(run(logarithmic(60), value, 0.3, failed=f)) for f in (None, dict.fromkeys(range(20, 40), "NaN"))
    )
    middle = {"grid": 100}
    assert gap["sd"][middle] > whole["sd"][middle]


def test_the_posterior_can_be_stored(tmp_path):
    curve = smooth(run(logarithmic(40), np.linspace(10, 20, 40), 0.5), num_draws=10)
    curve.to_netcdf(tmp_path / "curve.nc", engine="h5netcdf")
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "curve.nc", engine="h5netcdf"), curve)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_milestone_is_where_the_slope_changes_its_sign(sign):
    step, inside = logarithmic(80), []
    x = np.log1p(step)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        peak = rng.uniform(4, 8)
        value = 20 + sign * 8 * np.exp(-((x - peak) ** 2) / 4) + 0.5 * rng.standard_normal(80)
        (row,) = milestones(smooth(run(step, value, 0.5))).itertuples()
        assert row.kind == ("maximum" if sign > 0 else "minimum")
        assert row.value == pytest.approx(20 + sign * 8, abs=1)
        assert row.probability > 0.98
        assert np.log1p(row.step) == pytest.approx(peak, abs=0.3)
        inside.append(row.step_low <= np.expm1(peak) <= row.step_high)
    assert np.mean(inside) >= 0.75


def test_rise_fall_and_rise_have_two_milestones_in_order():
    x = np.linspace(0, 3 * np.pi, 90)
    value = 20 - 5 * np.cos(x) + 0.5 * np.random.default_rng(0).standard_normal(90)
    table = milestones(smooth(run(np.expm1(np.linspace(0, 11, 90)), value, 0.5)))
    assert list(table["kind"]) == ["maximum", "minimum"]
    np.testing.assert_allclose(np.log1p(table["step"]), [11 / 3, 22 / 3], atol=0.3)


def test_a_staircase_and_noise_have_no_milestone():
    rng = np.random.default_rng(0)
    llc, _ = staircase(100, rng)
    for value in (llc + 0.3 * rng.standard_normal(100), 20 + 0.3 * rng.standard_normal(100)):
        table = milestones(smooth(run(logarithmic(100), value, 0.3)))
        assert table.empty
        assert list(table.columns) == ["step", "step_low", "step_high", "kind", "value", "sd", "probability"]


def test_misuse_is_told():
    dataset = run(even(10), np.arange(10.0), 0.1)
    with pytest.raises(ValueError, match="at least 3 finite values of llc, got 2"):
        smooth(run(even(3), np.array([1.0, 2.0, np.nan]), 1.0))
    with pytest.raises(ValueError, match="accuracy not in the dataset"):
        smooth(dataset, "accuracy")
    with pytest.raises(ValueError, match="one number a checkpoint"):
        smooth(dataset, "singular_values")
    with pytest.raises(ValueError, match="steps must ascend"):
        smooth(dataset.isel(checkpoint=slice(None, None, -1)))
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        milestones(smooth(dataset), confidence=95.0)


def test_a_thousand_checkpoints_are_smoothed_from_all_of_them():
    """Hyperparameters come from some of them; the curve and its error from all."""
    step = np.arange(1000) * 10
    truth = 20 + 10 * np.tanh((step - 5000) / 600)
    llc = truth + 0.3 * np.random.default_rng(0).standard_normal(1000)
    along = {"llc": ("checkpoint", llc), "llc_std_error": ("checkpoint", np.full(1000, 0.3))}
    curve = smooth(xr.Dataset(along, coords={"step": ("checkpoint", step)}))
    late = curve["step"] > 100  # before, the grid is finer than the checkpoints
    off = curve["mean"] - np.interp(curve["step"], step, truth)
    assert (np.abs(off) < 3 * curve["sd"])[late].mean() > 0.95
    assert curve["sd"][-40:].median() < 0.1  # a third of what one estimate knows
