import numpy as np
import pytest
from synthetic import STAIRCASE, even, logarithmic, run, staircase

from sltjax.development import smooth, stages

COLUMNS = [
    *("stage", "from_step", "to_step", "onset", "onset_low", "onset_high", "end", "end_low", "end_high"),
    *("delta_loss", "delta_llc", "delta_llc_std_error", "kind"),
]


def planted(spacing=even, n=100, std_error=0.3, seed=0, **more):
    rng = np.random.default_rng(seed)
    llc, rises = staircase(n, rng)
    return run(spacing(n), llc + std_error * rng.standard_normal(n), std_error, **more), rises


@pytest.mark.parametrize("spacing", [even, logarithmic])
@pytest.mark.parametrize("seed", range(3))
def test_stages_of_a_staircase_are_its_rises(spacing, seed):
    dataset, rises = planted(spacing, seed=seed)
    table = stages(dataset)
    assert list(table.columns) == COLUMNS
    assert list(table["stage"]) == [1, 2, 3, 4]
    assert list(table["kind"]) == ["A"] * 4
    step = dataset["step"].values
    for (start, stop), row in zip(rises, table.itertuples(), strict=True):
        ten, ninety = np.interp([start + 0.1 * (stop - start), stop - 0.1 * (stop - start)], np.arange(len(step)), step)
        spare = 0.01 * ninety
        assert row.onset_low <= ten + spare
        assert ninety - spare <= row.end_high
        assert row.onset_low <= row.onset <= row.onset_high
        assert row.end_low <= row.end <= row.end_high


def test_heights_agree_with_the_planted_ones_within_their_errors():
    deviations = []
    for seed in range(6):
        table = stages(planted(seed=seed)[0])
        assert table["delta_llc_std_error"].max() < 0.3
        deviations.append((table["delta_llc"] - np.diff(STAIRCASE)) / table["delta_llc_std_error"])
    assert np.max(np.abs(deviations)) < 4
    assert 0.5 < np.std(deviations) < 1.5


def test_milestones_join_and_cover_the_run():
    dataset, _ = planted()
    table = stages(dataset)
    assert table["from_step"].iloc[0] == dataset["step"][0]
    assert table["to_step"].iloc[-1] == dataset["step"][-1]
    assert list(table["from_step"][1:]) == list(table["to_step"][:-1])


@pytest.mark.parametrize("n", [60, 100])
@pytest.mark.parametrize("noise", [1.0, 1.5])
def test_noise_alone_rarely_makes_a_stage(n, noise):
    curves = [20 + noise * 0.5 * np.random.default_rng(seed).standard_normal(n) for seed in range(20)]
    found = [len(stages(run(even(n), llc, 0.5))) for llc in curves]
    assert np.count_nonzero(found) <= 2


def test_a_curve_without_transition_gives_an_empty_table_with_the_same_columns():
    flat = stages(run(even(60), np.full(60, 20.0), 0.5))
    assert flat.empty
    assert list(flat.columns) == COLUMNS
    assert list(flat.dtypes) == list(stages(planted()[0]).dtypes)


def test_too_few_estimates_give_no_stage():
    assert stages(run(even(5), np.array([1.0, 2, 3, 4, 5]), 0.1)).empty
    assert stages(run(even(9), np.full(9, np.nan), 0.1)).empty


def test_failed_checkpoints_are_left_out():
    whole, _ = planted()
    gaps = dict.fromkeys((0, 21, 33, 34, 35, 60, 77), "NaN")
    dataset, _ = planted(failed=gaps)
    table = stages(dataset)
    assert len(table) == 4
    np.testing.assert_allclose(table["delta_llc"], stages(whole)["delta_llc"], atol=0.5)
    assert table["from_step"].iloc[0] == dataset["step"][1]


def test_an_outlier_makes_no_stage():
    llc = 20 + 0.3 * np.random.default_rng(0).standard_normal(60)
    llc[30] += 12
    assert stages(run(even(60), llc, 0.3)).empty


def test_rise_and_fall_are_of_two_kinds():
    x, rng = np.linspace(0, 1, 80), np.random.default_rng(0)
    llc = 10 + 149 / (1 + np.exp((0.35 - x) / 0.05)) - 44 / (1 + np.exp((0.8 - x) / 0.03)) + rng.standard_normal(80)
    falling, rising = np.linspace(3, 1, 80), np.linspace(1, 3, 80)
    assert list(stages(run(logarithmic(80), llc, 1.0, loss=falling))["kind"]) == ["A", "B"]
    assert list(stages(run(logarithmic(80), llc, 1.0, loss=rising))["kind"]) == ["A", "C"]
    np.testing.assert_allclose(stages(run(logarithmic(80), llc, 1.0))["delta_llc"], [149, -44], rtol=0.07)


def test_a_sharp_peak_between_slopes_is_a_turning_point():
    llc = np.concatenate([np.linspace(0, 100, 30), np.linspace(97, 20, 30)])
    table = stages(run(even(60), llc + np.random.default_rng(0).standard_normal(60), 1.0))
    assert len(table) == 2
    assert table["to_step"][0] == pytest.approx(2000, abs=150)


def test_exact_changes_stand_beside_the_estimated():
    dataset, rises = planted()
    reached = np.sum([np.arange(100) >= stop for _, stop in rises], axis=0)
    dataset["exact_llc"] = ("checkpoint", np.array(STAIRCASE)[reached])
    table = stages(dataset)
    assert list(table.columns) == [*COLUMNS, "exact_delta_llc"]
    assert list(table["exact_delta_llc"]) == list(np.diff(STAIRCASE))


def test_higher_confidence_gives_wider_intervals():
    dataset, _ = planted()
    narrow, wide = stages(dataset, confidence=0.5), stages(dataset, confidence=0.99)
    assert (wide["end_high"] - wide["end_low"] > narrow["end_high"] - narrow["end_low"]).all()


def test_stages_come_out_the_same_twice():
    dataset, _ = planted()
    assert stages(dataset).equals(stages(dataset))


def test_misuse_is_told():
    dataset, _ = planted()
    with pytest.raises(ValueError, match="llc_std_error not in the dataset"):
        stages(dataset.drop_vars("llc_std_error"))
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        stages(dataset, confidence=95.0)
    with pytest.raises(ValueError, match="tolerance is a share"):
        stages(dataset, tolerance=-1.0)
    with pytest.raises(ValueError, match="steps must ascend"):
        stages(dataset.isel(checkpoint=slice(None, None, -1)))


def test_smooth_recovers_a_smooth_curve_within_its_band():
    step, rng = logarithmic(60), np.random.default_rng(0)
    truth = 20 + 5 * np.sin(np.log1p(step) / 2)
    value = truth + 0.5 * rng.standard_normal(60)
    value[7] = np.nan
    curve = smooth(step, value, np.full(60, 0.5))
    away = (np.interp(step, curve.step, curve.mean) - truth) / np.interp(step, curve.step, curve.sd)
    assert np.mean(np.abs(away) < 2) > 0.8
    assert curve.sd.max() < 0.6
    assert curve.draws.shape == curve.slopes.shape == (200, 200)
    np.testing.assert_allclose(curve.draws.mean(0), curve.mean, atol=0.2)


def test_smooth_finds_noise_that_the_errors_leave_out():
    step, rng = even(100), np.random.default_rng(0)
    value = 20 + 1.0 * rng.standard_normal(100)
    assert smooth(step, value, np.full(100, 0.1)).excess == pytest.approx(1.0, rel=0.25)
    assert smooth(step, value, np.full(100, 1.0)).excess < 0.4


def test_smooth_needs_three_estimates():
    with pytest.raises(ValueError, match="at least 3 finite estimates, got 2"):
        smooth(np.arange(3), np.array([1.0, 2.0, np.nan]), np.ones(3))
