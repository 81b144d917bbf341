import dataclasses
import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure
from synthetic import even, logarithmic, noisy_staircase, run

from sltjax import plots
from sltjax.calibration import Calibration
from sltjax.definition import Curve
from sltjax.development import essential_dynamics, stages
from sltjax.estimators import HEAT_DOUBT, Covariance, Embedding, HessianSpectrum, Susceptibilities, structure
from sltjax.samplers import SGLD
from sltjax.schedule import Schedule
from sltjax.types import Estimate, Health


@pytest.fixture(scope="module")
def dataset():
    return noisy_staircase(80, failed={11: "NaN", 30: "cut"}, warned={40: "R-hat 1.3"})


def labels(ax):
    return {*ax.get_legend_handles_labels()[1]}


def test_development_has_a_panel_for_each_series_and_an_artist_for_each_state(dataset):
    figure = plots.development(dataset, stages(dataset))
    assert isinstance(figure, Figure)
    names = [ax.get_ylabel().replace("\n", " ") for ax in figure.axes]
    assert names == ["learning coefficient λ̂", "loss", "singular values"]
    assert labels(figure.axes[0]) == {"exact λ", "smoothed ± 2 sd", "failed", "λ̂ ± std. error", "λ̂ with a warning"}
    assert len(figure.axes[2].lines) >= dataset.sizes["singular_value"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["1A", "2A", "3A", "4A"]
    crosses = next(line for line in figure.axes[0].lines if line.get_label() == "failed")
    assert list(crosses.get_xdata()) == list(dataset["step"].values[[11, 30]])
    hollow = next(c for c in figure.axes[0].containers if c.get_label() == "λ̂ with a warning")
    assert hollow.lines[0].get_markerfacecolor() == "white"


def test_development_shades_transitions_from_onset_to_end(dataset):
    table = stages(dataset)
    spans = plots.development(dataset, table).axes[0].patches
    assert [span.get_x() for span in spans] == pytest.approx(list(table["onset"]))
    assert [span.get_width() for span in spans] == pytest.approx(list(table["end"] - table["onset"]))


def test_nothing_but_the_band_is_drawn_across_failed_checkpoints(dataset):
    ax = plots.development(noisy_staircase(80, failed=dict.fromkeys(range(30, 40), "cut"))).axes[0]
    through = next(line for line in ax.lines if len(line.get_xdata()) == 80 and line.get_drawstyle() == "default")
    assert np.isnan(through.get_ydata()[30:40]).all()
    (band,) = (patch for patch in ax.collections if patch.get_label() == "smoothed ± 2 sd")
    assert band.get_datalim(ax.transData).x1 == pytest.approx(4000)


def test_development_marks_milestones_and_the_intervals_of_stages():
    x = np.linspace(0, 1, 80)
    llc = 20 + 8 * np.exp(-((x - 0.5) ** 2) / 0.02) + 0.3 * np.random.default_rng(0).standard_normal(80)
    peaked = run(logarithmic(80), llc, 0.3)
    table = stages(peaked)
    ax = plots.development(peaked, table).axes[0]
    (peak,) = (container for container in ax.containers if container.get_label() == "maximum")
    assert np.log1p(float(peak.lines[0].get_xdata()[0])) == pytest.approx(np.log1p(float(peaked["step"][40])), abs=0.3)
    bars = [list(line.get_xdata()) for line in ax.lines if list(line.get_ydata()) == [1, 1]]
    assert bars == table[["onset_low", "end_high"]].to_numpy().tolist()


def test_development_draws_without_stages_and_without_optional_variables(dataset):
    plots.development(dataset)
    bare = dataset[["llc", "llc_std_error"]]
    figure = plots.development(bare, stages(bare))
    assert len(figure.axes) == 1
    figure.canvas.draw()


def test_axis_is_logarithmic_where_steps_are_and_as_told(dataset):
    def scale(data, **told):
        return plots.development(data, **told).axes[0].get_xscale()

    even_steps, log_steps = (
        dataset.isel(checkpoint=slice(40, None)),
        dataset.assign_coords(step=("checkpoint", logarithmic())),
    )
    assert scale(even_steps) == "linear"
    assert scale(even_steps, log_steps=True) == "function"
    assert scale(log_steps) == "function"
    assert scale(log_steps, log_steps=False) == "linear"


def test_step_zero_is_inside_the_logarithmic_axis(dataset):
    figure = plots.development(dataset.assign_coords(step=("checkpoint", logarithmic())))
    figure.canvas.draw()
    low, high = figure.axes[-1].get_xlim()
    assert -1 < low < 0
    assert high > 100_000


def test_a_run_that_failed_throughout_can_be_drawn():
    nothing = run(even(6), np.ones(6), 0.1, failed=dict.fromkeys(range(6), "NaN"), loss=np.full(6, np.nan))
    figure = plots.development(nothing, stages(nothing))
    figure.canvas.draw()
    assert labels(figure.axes[0]) == {"failed"}


def test_traces_has_a_line_for_each_chain(dataset):
    step = int(dataset["step"][20])
    ax = plots.traces(dataset, step).axes[0]
    assert labels(ax) == {f"chain {k}" for k in range(dataset.sizes["chain"])}
    first = next(line for line in ax.lines if line.get_label() == "chain 0")
    np.testing.assert_array_equal(first.get_ydata(), dataset["delta_loss"].values[20, 0])
    assert f"step {step:,}" in ax.get_title()


def test_traces_of_several_checkpoints_have_a_panel_each_and_long_ones_are_averaged(dataset):
    steps = dataset["step"].values[[3, 10, 20]].tolist()
    figure = plots.traces(dataset, *steps)
    assert [ax.get_title().split(",")[0] for ax in figure.axes if ax.get_visible()] == [
        f"step {s}" for s in steps[:2]
    ] + ["step 1"]
    long = xr.concat([dataset[["delta_loss"]]] * 20, "draw").assign(rhat=dataset["rhat"])
    ax = plots.traces(long, steps[0]).axes[0]
    (line,) = (line for line in ax.lines if line.get_label() == "chain 0")
    np.testing.assert_allclose(line.get_ydata(), long["delta_loss"].values[3, 0].reshape(-1, 5).mean(axis=1))
    np.testing.assert_allclose(line.get_xdata(), 2 + 5 * np.arange(200))
    assert ax.get_xlabel() == "draw (means of 5)"


def curve(value, *, warned=(), gamma=True):
    """λ̂ on a grid of octaves, over γ or over nβ, with an error of 0.01."""
    octaves = 2.0 ** np.arange(len(value))
    fixed = np.full(len(value), 12.34567)
    numbers = np.full(4, -1), 1.0, 1000.0, 0.0
    estimates = tuple(
        Estimate(v, 0.01 if np.isfinite(v) else np.nan, np.full(4, v), Health(*numbers, ("R-hat",) * (i in warned)))
        for i, v in enumerate(value)
    )
    draws = np.random.default_rng(0).gamma(2.0, size=(len(value), 4, 50))
    trace = {"delta_loss": draws, "distance": np.sqrt(draws)}
    return Curve(*((fixed, octaves) if gamma else (octaves, fixed)), trace, estimates)


def test_definition_shades_the_plateau_and_names_what_is_fixed():
    drawn = curve([2.0, 2.01, 1.99, 2.0, 1.7, np.nan, 1.2], warned={4})
    figure = plots.definition(drawn)
    (ax,) = figure.axes
    figure.canvas.draw()
    (span,) = ax.patches
    assert (span.get_x(), span.get_width()) == (1, 7)
    assert ax.get_xscale() == "log"
    assert labels(ax) == {
        "plateau: 2 ± 0.005",
        "with the first-order bias of γ put back",
        "failed",
        "λ̂ ± std. error",
        "λ̂ with a warning",
    }
    assert ax.get_xlabel() == r"localisation $\gamma$"
    assert r"$n\beta$ = 12.35" in ax.get_title()


def test_definition_draws_over_nbeta_and_without_plateau_or_localisation():
    figure = plots.definition(dataclasses.replace(curve([1.0, 1.5, 2.0], gamma=False), gamma=np.zeros(3)))
    (ax,) = figure.axes
    assert not ax.patches
    assert labels(ax) == {"λ̂ ± std. error"}
    assert ax.get_xlabel() == r"inverse temperature $n\beta$"
    assert r"$\gamma$ = 0" in ax.get_title()
    figure.canvas.draw()


def test_misuse_is_told(dataset):
    with pytest.raises(ValueError, match="no checkpoint at step 7; the nearest is at step 0"):
        plots.traces(dataset, 7)
    with pytest.raises(ValueError, match="delta_loss not in the dataset"):
        plots.traces(dataset.drop_vars("delta_loss"), 0)
    with pytest.raises(ValueError, match="llc not in the dataset"):
        plots.development(dataset.drop_vars("llc"))


def test_plots_leave_pyplot_alone():
    code = "import sys, sltjax.plots; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_calibration_shows_the_pilot_and_how_the_length_follows_from_it():
    draws = 2 + np.random.default_rng(0).normal(size=(2, 4, 250))
    seen = tuple(
        Estimate(float(x.mean()), 0.1, x.mean(axis=1), Health(np.full(4, -1), 1.0, 99.0, 0.0, ())) for x in draws
    )
    schedule = Schedule(num_chains=4, num_draws=4000, burn_in=500, thin=4, batch_size=10)
    found = Calibration(SGLD(0.1), schedule, 0.02, seen, draws, 4, np.ones(2), np.array([0.0, 0.004]))
    assert found.expected_error(1) == pytest.approx(np.hypot(0.1 / seen[1].value / 4, HEAT_DOUBT * 0.004))
    pilot, length = plots.calibration(found, checkpoint=1).axes
    assert len([line for line in pilot.lines if len(line.get_xdata()) == 25]) == 4
    assert labels(length) == {"pilot", "chosen", "asked for", "heat of batches"}
    assert "heat of batches" not in labels(plots.calibration(found).axes[1])
    plots.calibration(found).canvas.draw()
    with pytest.raises(ValueError, match="no pilot ran"):
        plots.calibration(Calibration(SGLD(0.1), schedule))


@pytest.fixture(scope="module")
def moved():
    t = 0.3 + np.linspace(0, 2 * np.pi, 80, endpoint=False)
    curve = np.stack([3 * np.cos(t), np.sin(t), 0.1 * np.sin(3 * t)], axis=1)
    runs = {
        name: xr.Dataset({"outputs": (("checkpoint", "outputs_0"), size * curve)}, {"step": ("checkpoint", steps)})
        for name, size, steps in (("a", 1.0, even()), ("b", 1.2, even()))
    }
    return essential_dynamics(runs)


def test_trajectories_has_a_plane_for_each_pair_with_every_mark(moved):
    table = pd.DataFrame({"stage": [1, 2], "to_step": [2000, 4000]})
    figure = plots.trajectories(moved, {"a": table})
    figure.canvas.draw()
    first, *_, bar = figure.axes
    assert [ax.get_xlabel()[:3] for ax in figure.axes[:3]] == ["PC1", "PC1", "PC2"]
    share = 100 * float(moved["explained_variance_ratio"][0])
    assert first.get_xlabel() == f"PC1 ({share:.3g} %)"
    assert bar.get_ylabel() == "training step"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["start", "end", "vertex: sharpest", "between stages", "run a", "run b"]
    assert [text.get_text() for text in first.texts] == ["1|2"]
    curve = moved["smoothed"].sel(run="a", pair="1,2").values
    square = next(line for line in first.lines if line.get_marker() == "s")
    np.testing.assert_allclose(square.get_xydata()[0], curve[np.argmin(np.abs(even() - 2000))])
    stars = [line for line in first.lines if line.get_marker() == "*"]
    assert [len(line.get_xdata()) for line in stars] == list((moved["vertex"].sel(pair="1,2") == 1).sum("checkpoint"))


def test_trajectories_draws_the_pairs_asked_for_evolutes_and_steps_in_log(moved):
    figure = plots.trajectories(
        moved.isel(run=[0]).assign_coords(step=("checkpoint", logarithmic())), pairs=["1,2"], evolute=True
    )
    figure.canvas.draw()
    ax, bar = figure.axes
    assert ax.get_aspect() == 1
    centres = [line for line in ax.lines if line.get_marker() == "."]
    np.testing.assert_array_equal(centres[0].get_xydata(), moved["centre"].sel(run="a", pair="1,2"))
    assert bar.get_ylabel() == "training step (log(step + 1))"
    assert "run a" not in [text.get_text() for text in figure.legends[0].get_texts()]


def test_trajectories_tells_misuse(moved):
    with pytest.raises(ValueError, match=r"got pairs \['1,4'\], expected some of \['1,2'"):
        plots.trajectories(moved, pairs=["1,4"])
    with pytest.raises(ValueError, match=r"got runs \['c'\], expected some of"):
        plots.trajectories(moved, {"c": pd.DataFrame()})
    with pytest.raises(ValueError, match="smoothed not in the dataset"):
        plots.trajectories(moved.drop_vars("smoothed"))


def spectrum(probes):
    h = np.concatenate([np.zeros(5), [-0.5, 1.0, 4.0]])
    return HessianSpectrum(
        np.broadcast_to(h, (probes, 2, 8)), np.ones((probes, 2, 8)), np.array([4.0, 1.0]), np.zeros(2)
    )


@pytest.mark.parametrize("probes", [1, 3])
def test_spectral_density_shows_density_rank_and_what_the_loss_holds(probes):
    figure = plots.spectral_density(spectrum(probes), nbeta=100.0, gamma=1.0)
    left, right = figure.axes
    band = {"± std. error"} if probes > 1 else set()
    assert labels(left) == {"largest 2"} | band
    assert {label.split(":")[0] for label in labels(right)} == {"all 8", "γ/nβ"}
    assert "γ/nβ: 1.988 directions held by the loss" in labels(right)
    threshold, rank = right.lines[0].get_data()
    assert rank[np.searchsorted(threshold, 0.1)] == 3
    assert rank[np.searchsorted(threshold, 2.0)] == 1
    figure.savefig(io.BytesIO())


def test_spectral_density_of_nothing_but_zeros_and_of_half_a_localisation():
    zero = HessianSpectrum(np.zeros((1, 1, 3)), np.ones((1, 1, 3)), np.zeros(3), np.zeros(3))
    plots.spectral_density(zero).savefig(io.BytesIO())
    with pytest.raises(ValueError, match="expected both or neither"):
        plots.spectral_density(zero, nbeta=10.0)


RNG = np.random.default_rng(0)
SOUND = Health(np.full(4, -1), 1.0, 400.0, 0.0, ())
LABELS = [2, 1, 2, 1, 1]


def pairs(shape):
    return Covariance(RNG.standard_normal(shape), np.full(shape, 0.1), SOUND)


def test_matrix_puts_examples_of_one_kind_together():
    found = pairs((5, 5))
    ax, bar = plots.matrix(found, LABELS, name="influence").axes
    order = [1, 3, 4, 0, 2]
    np.testing.assert_array_equal(ax.images[0].get_array(), found.value[np.ix_(order, order)])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["1", "2"]
    assert bar.get_ylabel() == "influence"
    assert plots.matrix(found).axes[0].get_xlabel() == "example"
    with pytest.raises(ValueError, match=r"shape \[5, 4\], expected examples against themselves"):
        plots.matrix(pairs((5, 4)))
    with pytest.raises(ValueError, match="got 5 labels for 4 examples"):
        plots.matrix(pairs((4, 4)), LABELS)


def test_embedding_has_a_colour_and_a_marker_for_each_kind():
    figure = plots.embedding(Embedding(RNG.standard_normal((5, 2)), np.array([0.5, np.nan])), LABELS)
    ax = figure.axes[0]
    assert [len(points.get_offsets()) for points in ax.collections] == [3, 2]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["1", "2"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("component 1 (50%)", "component 2")
    with pytest.raises(ValueError, match="got an embedding of 1 component"):
        plots.embedding(Embedding(RNG.standard_normal((5, 1)), np.ones(1)))


def test_susceptibilities_stand_in_units_of_their_error_or_in_the_order_of_a_factor():
    found = Susceptibilities(("hidden", "out"), RNG.standard_normal((2, 6)), np.full((2, 6), 0.5), (SOUND, SOUND))
    ax = plots.susceptibilities(found).axes[0]
    np.testing.assert_allclose(ax.images[0].get_array(), found.value / 0.5)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["hidden", "out"]
    seen = structure(found, 1)
    drawn = plots.susceptibilities(found, seen).axes[0].images[0].get_array()
    np.testing.assert_allclose(drawn, seen.standardised[:, np.argsort(seen.examples[:, 0])])
