import numpy as np
import pytest
from synthetic import STAIRCASE, even, logarithmic, run, staircase

from sltjax.development import change_points, stages

COLUMNS = [
    *("stage", "from_step", "to_step", "onset", "onset_low", "onset_high", "end", "end_low", "end_high"),
    *("duration", "duration_low", "duration_high", "resolution"),
    *("delta_loss", "delta_llc", "delta_llc_std_error", "kind", "confirmed"),
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


def test_duration_is_the_time_from_ten_to_ninety_per_cent():
    inside = []
    for seed in range(6):
        dataset, rises = planted(seed=seed)
        spacing = np.diff(dataset["step"]).mean()
        durations = 0.8 * spacing * np.array([stop - start for start, stop in rises])
        table = stages(dataset)
        inside += [*(table["duration_low"] <= durations) & (durations <= table["duration_high"])]
        np.testing.assert_allclose(table["duration"], durations, atol=2 * spacing)
        within = [
            np.count_nonzero(dataset["step"].isin(np.arange(*ends))) for ends in zip(*stretch(table), strict=True)
        ]
        assert list(table["resolution"]) == within
    assert np.mean(inside) > 0.85


def stretch(table):
    return np.ceil(table["onset"]).astype(int), np.floor(table["end"]).astype(int) + 1


def jump(*, at=50, failed=()):
    """From 20 to 24 between two checkpoints, 40 steps apart."""
    llc = np.where(np.arange(100) < at, 20.0, 24.0) + 0.2 * np.random.default_rng(0).standard_normal(100)
    return run(np.arange(100) * 40, llc, 0.2, failed=dict.fromkeys(failed, "NaN"))


def test_a_jump_between_two_checkpoints_may_have_taken_no_time():
    (row,) = stages(jump()).itertuples()
    assert row.resolution == 0
    assert row.duration_low == 0
    assert row.duration_high < 1.5 * 40
    assert 48 * 40 < row.onset_low < 49.5 * 40 < row.end_high < 51 * 40


def test_a_jump_in_a_gap_may_have_been_anywhere_in_it():
    (row,) = stages(jump(failed=range(42, 62))).itertuples()
    first, last = 41 * 40, 62 * 40
    assert row.resolution == 0
    assert row.duration_low == 0
    assert 0.6 * (last - first) < row.duration_high < 1.1 * (last - first)
    assert abs(row.onset_low - first) < 0.1 * (last - first)
    assert abs(row.end_high - last) < 0.1 * (last - first)
    assert row.delta_llc == pytest.approx(4, abs=4 * row.delta_llc_std_error)


def test_a_plateau_that_drifts_between_two_jumps_is_one():
    llc = np.concatenate([np.full(30, 18.0), np.linspace(21.5, 23.5, 14), np.full(40, 26.0)])
    noise = 0.3 * np.random.default_rng(1).standard_normal(len(llc))
    assert len(stages(run(even(len(llc)), llc + noise, 0.3))) == 2


def test_no_stage_is_smaller_than_the_tolerance():
    """Noise makes the fall of 12 one of 6.2, under 4 % of 160, though the levels found beside it are further apart."""
    x, rng = np.linspace(0, 1, 60), np.random.default_rng(7075)
    parts = [(149, 0.35, 0.05), (-12, 0.6, 0.015), (-44, 0.85, 0.015)]
    llc = 10 + sum(height / (1 + np.exp((centre - x) / width)) for height, centre, width in parts)
    noisy = run(even(60), llc + 2.5 * rng.standard_normal(60), 2.5)
    found = stages(noisy)
    assert (found["delta_llc"].abs() > 0.04 * 150).all()
    assert len(found) == 2
    assert len(stages(noisy, tolerance=0.0)) > 2


def test_change_points_are_where_a_staircase_jumps():
    llc = np.repeat([10.0, 14.0, 12.0], [20, 30, 25])
    error = np.random.default_rng(0).uniform(0.1, 0.5, 75)
    changes = change_points(run(np.arange(75) * 10, llc + error * np.random.default_rng(1).standard_normal(75), error))
    assert list(changes["from_step"]) == [190, 490]
    assert list(changes["to_step"]) == [200, 500]
    assert (np.abs(changes["change"] - [4, -2]) < 4 * changes["change_std_error"]).all()
    exact = [np.sqrt(sum(1 / np.sum(error[a:b] ** -2.0) for a, b in ((0, 20), (20, 50))))]
    assert list(changes["change_std_error"][:1]) == pytest.approx(exact, rel=0.2)


def test_change_points_know_the_errors_and_what_they_leave_out():
    noise = np.random.default_rng(0).standard_normal(100)
    noisy_end = np.where(np.arange(100) < 70, 0.1, 3.0)
    assert change_points(run(even(100), 20 + noisy_end * noise, noisy_end)).empty
    assert change_points(run(even(100), 20 + noise, 0.1)).empty
    assert change_points(run(even(5), np.arange(5.0), 0.1)).empty


def test_a_stage_is_confirmed_by_the_second_method_and_other_changes_are_listed():
    table = stages(planted(seed=1)[0])
    assert table["confirmed"].all()
    assert table.attrs["elsewhere"] == []
    # A change below the tolerance makes no stage, and the second method knows no tolerance.
    llc = np.where(np.arange(80) < 40, 20.0, 20.6) + 0.1 * np.random.default_rng(0).standard_normal(80)
    table = stages(run(np.arange(80) * 10, llc, 0.1))
    assert table.empty
    assert table.attrs["elsewhere"] == [400]
