"""Which parts develop together: planted groups, found in noise; parts that rest; gaps."""

import numpy as np
import pytest
import xarray as xr

from sltjax import plots
from sltjax.development import components

STEPS = np.arange(0, 400, 10)
RISES = {"early a": (60, 5.0), "early b": (70, 20.0), "late a": (250, 3.0), "late b": (260, 8.0), "still": (0, 0.0)}
GROUPS = {"early a": 0, "early b": 0, "late a": 1, "late b": 1, "still": -1}


def planted(seed, error=0.2):
    rng = np.random.default_rng(seed)
    return {
        name: run(10 + height / (1 + np.exp((when - STEPS) / 12)) + error * rng.normal(size=len(STEPS)), error)
        for name, (when, height) in RISES.items()
    }


def run(llc, error, step=STEPS):
    along = {"llc": ("checkpoint", llc), "llc_std_error": ("checkpoint", np.full(len(llc), error))}
    return xr.Dataset(along, {"step": ("checkpoint", step)})


def test_planted_groups_are_found_in_noise():
    found = [components(planted(seed)) for seed in range(50)]
    right = [dict(zip(each.component.values, each.group.values, strict=True)) == GROUPS for each in found]
    assert np.mean(right) >= 0.95


def test_similarity_is_not_attenuated_by_noise():
    """Two noisy copies of one curve: the plain correlation is far under 1, the similarity about 1."""
    rng = np.random.default_rng(0)
    curve = np.sin(np.linspace(0, 6, 200))
    values = []
    for _ in range(50):
        noisy = [curve + 0.7 * rng.normal(size=200) for _ in range(2)]
        assert np.corrcoef(noisy)[0, 1] < 0.75
        pair = {str(k): run(llc, 0.7, np.arange(200)) for k, llc in enumerate(noisy)}
        values.append(float(components(pair).similarity[0, 1]))
    assert abs(np.mean(values) - 1) < 4 * np.std(values) / np.sqrt(50) + 0.02  # clipped at 1
    assert np.mean(values) > 0.9


def test_parts_that_rest_are_said_to_as_often_as_promised():
    rng = np.random.default_rng(1)
    rest = {str(k): run(7 + 0.3 * rng.normal(size=len(STEPS)), 0.3) for k in range(300)}
    assert np.mean(components(rest, false_alarm=0.1).group >= 0) == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / 300))


def test_gaps_and_other_steps_are_no_obstacle():
    parts = planted(0)
    parts["early a"] = parts["early a"].isel(checkpoint=slice(None, None, 2))
    parts["late b"]["llc"][5:9] = np.nan
    found = components(parts)
    assert found.sizes["checkpoint"] == len(STEPS)
    assert int(np.isfinite(found.llc.sel(component="early a")).sum()) == 20
    assert dict(zip(found.component.values, found.group.values, strict=True)) == GROUPS


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="no components given"):
        components({})
    with pytest.raises(ValueError, match="'a' lacks 'llc_std_error'"):
        components({"a": run(np.arange(40.0), 0.1).drop_vars("llc_std_error")})
    early, late = run(np.arange(5.0), 0.1, np.arange(5)), run(np.arange(5.0), 0.1, np.arange(10, 15))
    with pytest.raises(ValueError, match="0 checkpoints in common"):
        components({"a": early, "b": late})


def test_the_figure_has_a_panel_a_group(tmp_path):
    figure = plots.components(components(planted(0)))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["group 1", "group 2", "no change beyond errors"]
    assert [len(ax.lines) for ax in figure.axes] == [2, 2, 1]
    figure.savefig(tmp_path / "components.png", dpi=100)
    assert (tmp_path / "components.png").stat().st_size > 10_000
