"""Curves that turn without resting: a rise and a fall, as grokking shows them."""

import numpy as np
import pytest
from synthetic import run

from sltjax.development import stages
from sltjax.development.turns import turning_ramps

STEPS = np.array([0, 30, 60, 100, 160, 229, 300, 400, 600, 800, 988, 1402, 2000, 2800, 4000])
HUMP = np.array([202, 230, 290, 350, 405, 432, 420, 350, 250, 200, 170, 120, 100, 88, 83.0])


def hump(seed, noise=1.0):
    noisy = HUMP + noise * np.random.default_rng(seed).standard_normal(len(HUMP))
    return run(STEPS, noisy, 1.0, loss=np.linspace(3, 0.01, len(HUMP)))


@pytest.mark.parametrize("seed", range(5))
def test_a_rise_and_a_fall_are_two_stages(seed):
    table = stages(hump(seed))
    assert table["kind"].tolist() == ["A", "B"]
    assert table["confirmed"].all()
    assert table["to_step"].tolist() == [229, 4000]
    for row, exact in zip(table.itertuples(), [432 - 202, 83 - 432], strict=True):
        assert abs(row.delta_llc - exact) < 4 * np.hypot(row.delta_llc_std_error, 1)
        assert row.delta_llc_std_error < 6
        assert row.onset_low <= row.onset <= row.onset_high <= row.end_high
        assert row.end_low <= row.end <= row.end_high


def test_the_tenths_of_a_fall_are_where_it_has_made_them():
    table = stages(hump(0))
    fall = table.iloc[1]
    x = np.log1p(STEPS[5:])
    tenth, nine_tenths = (np.expm1(np.interp(-(432 - share * 349), -HUMP[5:], x)) for share in (0.1, 0.9))
    assert abs(np.log(fall["onset"] / tenth)) < 0.1
    assert abs(np.log(fall["end"] / nine_tenths)) < 0.1


def test_noise_around_a_level_never_turns():
    rng = np.random.default_rng(0)
    for n in (8, 12, 20):
        for _ in range(15):
            flat = run(np.arange(n) * 50, 100 + 6 * rng.standard_normal(n), 4.0)
            assert turning_ramps(flat, 0.04) == ([], [])
