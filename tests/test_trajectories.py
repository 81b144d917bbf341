import numpy as np
import pytest
import xarray as xr

import sltjax
from sltjax.development import essential_dynamics
from sltjax.development.local_polynomial import local_cubic
from sltjax.development.plane_curves import plane_curve


def isometry(rows, columns=60, seed=0):
    """A random map [rows, columns] that keeps lengths."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(columns, rows)))[0].T


def sweep(curve, step=None, seed=0, shape=(12, 5)):
    """A stored run whose outputs follow a plane curve, somewhere in a space of many dimensions."""
    values = curve @ isometry(curve.shape[1], np.prod(shape), seed) + 7.0
    dims = ("checkpoint", *(f"outputs_{axis}" for axis in range(len(shape))))
    steps = 10 * np.arange(len(curve)) if step is None else step
    return xr.Dataset({"outputs": (dims, values.reshape(-1, *shape))}, {"step": ("checkpoint", steps)})


def ellipse(a, b, n=400, first=0.3, turn=2 * np.pi):
    t = first + np.linspace(0, turn, n, endpoint=False)
    return t, np.stack([a * np.cos(t), b * np.sin(t)], axis=1)


def distances(points):
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def test_a_circle_without_smoothing_has_the_curvature_of_its_central_differences():
    _, circle = ellipse(3.0, 3.0, 80)
    found = essential_dynamics(sweep(circle), smoothing=0.0, num_components=2).isel(run=0, pair=0)
    inside = found.isel(checkpoint=slice(1, -1))
    angle = 2 * np.pi / 80
    np.testing.assert_allclose(np.abs(inside["curvature"]), 2 / (3 * (1 + np.cos(angle))), rtol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(inside["centre"], axis=1), 3 * (1 - np.cos(angle)) / 2, rtol=1e-6)
    np.testing.assert_allclose(found["smoothed"], found["position"], atol=1e-12)


def test_a_circle_has_the_curvature_and_the_centre_of_its_radius_and_no_vertex():
    _, circle = ellipse(3.0, 3.0, turn=1.7 * np.pi)
    dataset = sweep(circle)
    found = essential_dynamics(dataset, num_components=2, smoothing=0.01).isel(run=0, pair=0)
    np.testing.assert_allclose(np.abs(found["curvature"]), 1 / 3, rtol=0.02)
    middle = (found["mean"].values.ravel() - 7.0) @ isometry(2).T  # of the checkpoints; the circle's own is 0
    centre = middle + found["centre"].values @ found["basis"].values.reshape(2, -1) @ isometry(2).T
    np.testing.assert_allclose(centre, 0, atol=0.06)
    assert not found["vertex"].any()


def test_an_ellipse_has_four_vertices_and_its_own_evolute():
    t, curve = ellipse(3.0, 1.0)
    found = essential_dynamics(sweep(curve), num_components=2, smoothing=0.01).isel(run=0, pair=0)
    vertices = np.flatnonzero(found["vertex"])
    np.testing.assert_allclose(t[vertices] / (np.pi / 2), [1, 2, 3, 4], atol=0.05)
    assert list(found["vertex"].values[vertices]) == [-1, 1, -1, 1]
    exact = essential_dynamics(sweep(curve), num_components=2, smoothing=0.0).isel(run=0, pair=0)
    evolute = np.stack([8 / 3 * np.cos(t) ** 3, -8 * np.sin(t) ** 3], axis=1)
    # the basis turns and shifts both alike: compare all distances to the curve and between centres
    both = np.concatenate([exact["centre"].values, exact["position"].values])[[*range(1, 399, 7), *range(401, 799, 7)]]
    expected = np.concatenate([evolute, curve])[[*range(1, 399, 7), *range(401, 799, 7)]]
    np.testing.assert_allclose(distances(both), distances(expected), atol=2e-3)


def test_a_straight_line_has_no_curvature_no_centre_and_no_vertex():
    line = np.linspace(0, 1, 40)[:, None] ** 2 * np.array([[2.0, 1.0]])
    found = essential_dynamics(sweep(line)).isel(run=0)
    np.testing.assert_allclose(found["curvature"].sel(pair="1,2"), 0, atol=1e-9)
    assert found["curvature"].sel(pair="2,3").isnull().all()
    np.testing.assert_allclose(found["explained_variance_ratio"], [1, 0, 0], atol=1e-12)
    assert not found["vertex"].any()


@pytest.mark.parametrize("width", [1.0, 3.0, 6.0])
def test_cubics_come_through_the_smoother_as_they_are_ends_and_gaps_included(width):
    u = np.delete(np.arange(40.0), [3, 4, 17, 18, 19, 20, 21, 38])
    cubic = np.polynomial.Polynomial([1.0, -2.0, 0.3, 0.05])
    smoother = local_cubic(u, width, u)
    for matrix, exact in zip(smoother, (cubic, cubic.deriv(), cubic.deriv(2)), strict=True):
        np.testing.assert_allclose(matrix @ cubic(u), exact(u), rtol=1e-6, atol=1e-6)


def test_a_parabola_has_its_curvature_without_smoothing_at_gaps_too():
    kept = np.delete(np.arange(61), [0, 7, 8, 30, 31, 44])
    t = (kept - 30) / 15
    found = plane_curve(np.stack([t, t**2], axis=1), kept.astype(float), 0.0)
    np.testing.assert_allclose(found.curvature, 2 / (1 + 4 * t**2) ** 1.5, rtol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_noise_neither_hides_nor_makes_sharp_vertices(seed):
    rng = np.random.default_rng(seed)
    t, curve = ellipse(3.0, 1.0, first=1.6, turn=1.95 * np.pi)
    found = essential_dynamics(sweep(curve + 0.03 * rng.normal(size=curve.shape)), num_components=2).isel(run=0, pair=0)
    sharp = t[np.flatnonzero(found["vertex"] == 1)]
    np.testing.assert_allclose(sharp / np.pi, [1, 2], atol=0.08)
    _, circle = ellipse(1.0, 1.0)
    found = essential_dynamics(sweep(circle + 0.03 * rng.normal(size=curve.shape)), num_components=2)
    assert not found["vertex"].any()


def test_the_error_of_curvature_is_its_scatter():
    _, circle = ellipse(1.0, 1.0, 150)
    rng = np.random.default_rng(0)
    index = np.arange(150.0)
    runs = [plane_curve(circle + 0.02 * rng.normal(size=circle.shape), index, 0.02) for _ in range(40)]
    middle = slice(20, -20, 10)
    scatter = np.std([run.curvature[middle] for run in runs], axis=0)
    stated = np.sqrt(np.mean([run.std_error[middle] ** 2 for run in runs], axis=0))
    assert np.sqrt(np.mean(stated**2)) < 0.2
    assert np.sqrt(np.mean(scatter**2) / np.mean(stated**2)) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("seed", range(10))
def test_a_corner_where_training_rests_is_the_one_sharp_vertex(seed):
    index = np.arange(80)
    corner = np.stack([1 / (1 + np.exp((leap - index) / 1.5)) for leap in (20, 60)], axis=1)
    noise = 0.003 * np.random.default_rng(seed).normal(size=corner.shape)
    found = essential_dynamics(sweep(corner + noise), num_components=2).isel(run=0, pair=0)
    (vertex,) = np.flatnonzero(found["vertex"] == 1)
    np.testing.assert_allclose(corner[vertex], [1, 0], atol=0.05)
    assert abs(found["curvature"][vertex]) > 4 * found["curvature_std_error"][vertex]


def test_runs_share_one_basis_in_which_each_weighs_the_same():
    t = np.linspace(-1, 1, 50)
    zero = np.zeros(50)
    along, across = np.stack([t, zero], axis=1), np.stack([zero, 0.5 * t], axis=1)
    few = essential_dynamics({"a": sweep(along), "b": sweep(across)}, num_components=2)
    t = np.linspace(-1, 1, 500)
    many = np.stack([0 * t, 0.5 * t], axis=1)
    uneven = essential_dynamics({"a": sweep(along), "b": sweep(many)}, num_components=2)
    for found in (few, uneven):
        np.testing.assert_allclose(found["explained_variance_ratio"], [0.8, 0.2], atol=0.01)
        assert list(found["run"]) == ["a", "b"]
    place = few["position"].sel(run="a")
    np.testing.assert_allclose(np.abs(place.isel(component=0)), np.abs(along[:, 0]), atol=1e-12)
    np.testing.assert_allclose(place.isel(component=1), 0, atol=1e-12)


def test_a_drift_slower_than_its_noise_is_followed_to_its_end():
    t = np.linspace(0, 1, 200)
    drift = np.stack([np.minimum(20 * t, 1), 0.2 * t], axis=1)
    noise = 0.003  # of a checkpoint, which moves 0.001; a move counts from three times its noise on both axes
    found = essential_dynamics(sweep(drift + noise * np.random.default_rng(0).normal(size=drift.shape)))
    place = found["smoothed"].sel(pair="1,2").isel(run=0).values
    assert np.linalg.norm(place[-1] - place[100]) == pytest.approx(0.2 * (t[-1] - t[100]), abs=3 * np.sqrt(2) * noise)


def test_rotating_outputs_and_permuting_runs_change_nothing():
    rng = np.random.default_rng(0)
    curves = [np.cumsum(rng.normal(size=(40, 4)), axis=0) * [3, 2, 1, 0.5] for _ in range(3)]
    plain = essential_dynamics([sweep(curve) for curve in curves])
    rotated = essential_dynamics([sweep(curve, seed=1) for curve in curves])
    permuted = essential_dynamics([sweep(curve) for curve in curves[::-1]]).isel(run=slice(None, None, -1))
    for other in (rotated, permuted):
        for name in ("position", "smoothed", "vertex", "explained_variance_ratio"):
            np.testing.assert_allclose(other[name], plain[name], rtol=1e-7, atol=1e-7)
    assert (plain["position"].isel(checkpoint=0).mean("run") < 0).all()


def test_failed_checkpoints_are_left_out_and_named_and_steps_may_differ():
    _, curve = ellipse(3.0, 1.0, 60)
    whole, other = sweep(curve), sweep(curve[::2], step=20 * np.arange(30))
    whole["outputs"][7] = np.nan
    found = essential_dynamics({"whole": whole, "other": other}, num_components=2)
    assert list(found["step"]) == list(range(0, 600, 10))
    status = found["status"]
    assert list(np.flatnonzero(status.sel(run="whole") == "failed")) == [7]
    assert list(np.flatnonzero(status.sel(run="other") == "absent")) == list(range(1, 60, 2))
    for name in ("position", "smoothed", "curvature"):
        known = found[name].notnull().all([dim for dim in found[name].dims if dim not in ("run", "checkpoint")])
        assert (known == (status == "done")).all()


def test_it_can_be_written_and_read(tmp_path):
    found = sltjax.essential_dynamics(sweep(ellipse(3.0, 1.0, 50)[1]))
    found.to_netcdf(tmp_path / "found.nc", engine="h5netcdf")
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "found.nc", engine="h5netcdf"), found)


def test_position_is_what_mean_and_basis_say():
    dataset = sweep(ellipse(3.0, 1.0, 50)[1])
    found = essential_dynamics(dataset, num_components=2)
    back = found["mean"] + (found["position"].isel(run=0) * found["basis"]).sum("component")
    np.testing.assert_allclose(back.transpose(*dataset["outputs"].dims), dataset["outputs"], atol=1e-12)


def test_misuse_is_told():
    curve = ellipse(3.0, 1.0, 20)[1]
    good = sweep(curve)
    cases = {
        "no run, expected at least one": ([], {}),
        "logits not in the dataset": (good, {"outputs": "logits"}),
        "step not in the dataset": (good.drop_vars("step"), {}),
        "at least two numbers a checkpoint": (good.isel(outputs_0=0, outputs_1=0), {}),
        "at least 3 checkpoints that are done, got 2": (good.isel(checkpoint=[0, 1]), {}),
        "of one shape": ([good, sweep(curve, shape=(5, 12))], {}),
        "the same at every checkpoint": (good.isel(checkpoint=[3] * 5).assign_coords(step=good["step"][:5]), {}),
        "steps must ascend": (good.isel(checkpoint=slice(None, None, -1)), {}),
        "at least 2, for a plane": (good, {"num_components": 1}),
        "smoothing is a share": (good, {"smoothing": 2.0}),
    }
    for message, (datasets, options) in cases.items():
        with pytest.raises(ValueError, match=message):
            essential_dynamics(datasets, **options)
    for value in (np.nan, np.inf):
        broken = good.copy(deep=True)
        broken["outputs"][4, 0, 0] = value
        with pytest.raises(ValueError, match=r"partly not finite at steps \[40\]"):
            essential_dynamics(broken)
