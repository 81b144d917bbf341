import json
import os

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from sltjax.posterior import LocalPosterior
from sltjax.results import METRIC, OBSERVED, check_names, check_size, open_results, to_dataset, write_results
from sltjax.schedule import Schedule
from sltjax.store import Store

MANIFEST = {
    "title": "a title",
    "source": "memory",
    "skipped": [["tmp.7", "unfinished"]],
    "definition": {"loss": {"name": "loss", "fingerprint": "f"}, "nbeta": 10.0, "gamma": 2.0},
    "numerics": {"num_draws": 50},
    "block_size": 3,
    "versions": {"sltjax": "0.1.0"},
}


def unit(seed, **more):
    rng = np.random.default_rng(seed)
    return {
        "anchor_loss": np.asarray(seed, np.float32),
        "acceptance": np.asarray(0.9, np.float32),
        "weights": np.asarray("digest"),
        OBSERVED + "delta_loss": (1 + 0.1 * rng.normal(size=(2, 50))).astype(np.float32),
        OBSERVED + "position": rng.normal(size=(2, 50, 3)).astype(np.float32),
        METRIC + "accuracy": np.asarray(0.5, np.float32),
        METRIC + "singular_values": np.arange(4, dtype=np.float32) + seed,
        METRIC + "count": np.asarray(seed, np.int32),
        **more,
    }


UNITS = {10: unit(1), 30: unit(3)}


@pytest.fixture(scope="module")
def dataset():
    return to_dataset([10, 20, 30, 40], UNITS, {20: "broken"}, MANIFEST)


def test_dims_coords_and_dtypes(dataset):
    assert dict(dataset.sizes) == {"checkpoint": 3, "chain": 2, "draw": 50, "position_0": 3, "singular_values_0": 4}
    assert dataset.step.values.tolist() == [10, 20, 30]  # 40 has not been reached
    assert dataset.step.dtype == np.int64
    assert dataset.chain.values.tolist() == [0, 1]
    assert dataset.draw.values.tolist() == list(range(50))
    assert dataset.delta_loss.dims == ("checkpoint", "chain", "draw")
    assert dataset.position.dims == ("checkpoint", "chain", "draw", "position_0")
    assert dataset.llc_per_chain.dims == ("checkpoint", "chain")
    for name in ("llc", "llc_std_error", "rhat", "ess", "drift"):
        assert dataset[name].dims == ("checkpoint",)
        assert dataset[name].dtype == np.float64
    assert dataset.delta_loss.dtype == np.float32
    assert dataset.ok.dtype == bool
    assert "weights" not in dataset


def test_llc_is_nbeta_times_the_mean_loss_difference(dataset):
    for row, step in [(0, 10), (2, 30)]:
        draws = np.float64(10) * UNITS[step][OBSERVED + "delta_loss"].astype(np.float64)
        assert dataset.llc[row] == pytest.approx(draws.mean(), rel=1e-6)
        np.testing.assert_allclose(dataset.llc_per_chain[row], draws.mean(axis=1), rtol=1e-6)
        assert 0 < dataset.llc_std_error[row] < 0.5


def test_a_failed_row_is_nan_with_its_reason(dataset):
    failed = dataset.isel(checkpoint=1)
    assert dataset.status.values.tolist() == ["done", "failed", "done"]
    assert failed.verdict == "broken"
    assert not failed.ok
    for name in ("llc", "llc_std_error", "llc_per_chain", "delta_loss", "loss", "accuracy", "singular_values", "count"):
        assert np.isnan(failed[name]).all(), name


def test_metrics_stand_under_their_names(dataset):
    assert dataset.singular_values.values[[0, 2]].tolist() == [[1, 2, 3, 4], [3, 4, 5, 6]]
    assert dataset["count"].values[[0, 2]].tolist() == [1, 3]
    roles = {name for name in dataset if dataset[name].attrs.get("role") == "metric"}
    assert roles == {"accuracy", "singular_values", "count"}


def test_integer_metrics_stay_so_without_gaps():
    assert to_dataset([10, 30], UNITS, {}, MANIFEST)["count"].dtype == np.int32


def test_a_metric_named_loss_replaces_the_anchor_loss(dataset):
    assert dataset["loss"].values[[0, 2]].tolist() == [1, 3]
    replaced = to_dataset([10], {10: unit(1, **{METRIC + "loss": np.asarray(7, np.float32)})}, {}, MANIFEST)
    assert replaced["loss"].values.tolist() == [7]
    assert replaced["loss"].attrs == {"role": "metric"}


def test_attrs_say_what_it_is_a_result_of(dataset):
    for name in ("definition", "numerics", "versions", "skipped"):
        assert json.loads(dataset.attrs[name]) == MANIFEST[name]
    assert dataset.attrs["nbeta"] == 10.0
    assert dataset.attrs["gamma"] == 2.0
    assert dataset.attrs["title"] == "a title"
    assert dataset.attrs["source"] == "memory"
    assert dataset.attrs["sltjax_version"] == "0.1.0"


def stored(folder, units=UNITS, failures=None):
    store = Store(folder)
    with store.locked():
        store.write_manifest(MANIFEST)
        for step, kept in units.items():
            store.write(step, kept)
        for step, reason in (failures or {}).items():
            store.write_failure(step, reason)
    return store


def test_a_store_gives_the_same_dataset_unit_by_unit(dataset, tmp_path):
    store = stored(tmp_path, failures={20: "broken"})
    write_results(store, [10, 20, 30, 40], store.failures())
    with open_results(tmp_path) as opened:
        xr.testing.assert_identical(dataset, opened.load())
        assert {name: v.dtype.kind for name, v in opened.variables.items() if v.dtype.kind not in "OTU"} == {
            name: v.dtype.kind for name, v in dataset.variables.items() if v.dtype.kind not in "OTU"
        }


def test_equal_stores_are_equal_bytes(tmp_path):
    one, two = (write_results(stored(tmp_path / name), [10, 30], {}).read_bytes() for name in ("a", "b"))
    assert one == two


def test_integers_recorded_at_every_draw_stay_so_without_gaps(tmp_path):
    counted = {step: unit(step, **{OBSERVED + "count_of": np.full((2, 50), step, np.int32)}) for step in (10, 30)}
    for folder, failures in {"whole": {}, "gap": {20: "broken"}}.items():
        store = stored(tmp_path / folder, counted, failures)
        write_results(store, [10, 20, 30], store.failures())
        with open_results(tmp_path / folder) as opened:
            xr.testing.assert_identical(to_dataset([10, 20, 30], counted, failures, MANIFEST), opened.load())


def test_an_interrupted_run_opens_with_what_there_is(tmp_path):
    stored(tmp_path, failures={20: "broken"})
    with open_results(tmp_path) as opened:
        assert opened.step.values.tolist() == [10, 20, 30]
        assert opened.status.values.tolist() == ["done", "failed", "done"]


def test_what_came_after_the_dataset_was_written_is_there_too(tmp_path):
    """A shard that ends writes the Dataset, others go on and may be stopped."""
    store = stored(tmp_path, {10: UNITS[10]}, {20: "broken"})
    os.utime(write_results(store, [10, 20, 30], store.failures()), (0, 0))
    store.write(30, UNITS[30])
    store.write_failure(40, "broken too")
    with open_results(tmp_path) as opened:
        assert opened.step.values.tolist() == [10, 20, 30, 40]
        assert opened.status.values.tolist() == ["done", "failed", "done", "failed"]
    before = (tmp_path / "dataset.nc").stat().st_ino
    open_results(tmp_path).close()
    assert (tmp_path / "dataset.nc").stat().st_ino == before  # not written anew where nothing came


def test_a_damaged_unit_is_left_out(tmp_path):
    store = stored(tmp_path)
    (tmp_path / "units" / "000000000030.npz").write_bytes(b"PK")
    write_results(store, store.steps(), {})
    with open_results(tmp_path) as opened:
        assert opened.step.values.tolist() == [10]


def test_what_is_recorded_is_read_when_it_is_asked_for(tmp_path):
    stored(tmp_path)
    with open_results(tmp_path) as opened:
        assert not opened.variables["delta_loss"]._in_memory
        assert opened.delta_loss[0, 0, 0] == UNITS[10][OBSERVED + "delta_loss"][0, 0]


def test_nothing_to_open(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no dataset\.nc"):
        open_results(tmp_path)


SCHEDULE = Schedule(num_chains=4, num_draws=1000, burn_in=0, thin=1, batch_size=1)


def around(params):
    return LocalPosterior(lambda params, batch: batch, params, 1.0, 1.0)


def test_what_is_recorded_is_bounded():
    posterior = around({"w": np.zeros((100, 100), np.float32)})
    check_size({"norm": lambda w, info: jnp.sum(w["w"])}, posterior, SCHEDULE)
    weights = {"weights": lambda w, info: w["w"], "norm": lambda w, info: jnp.sum(w["w"])}
    with pytest.raises(ValueError, match=r"153 MiB .* at most 100; 'weights' alone takes 153") as error:
        check_size(weights, posterior, SCHEDULE, most=100 * 2**20)
    assert "fewer draws" in str(error.value)


def test_an_observable_is_one_array():
    with pytest.raises(ValueError, match=r"observable 'both'.*expected one array"):
        check_size({"both": lambda w, info: (w, w)}, around(np.zeros(2, np.float32)), SCHEDULE)


def test_goes_into_pandas(dataset):
    table = dataset.set_index(checkpoint="step")[["llc", "llc_std_error", "status"]].to_dataframe()
    assert isinstance(table, pd.DataFrame)
    assert table.index.tolist() == [10, 20, 30]
    np.testing.assert_array_equal(table["llc"], dataset.llc)
    assert len(dataset["delta_loss"].to_dataframe()) == 3 * 2 * 50


def test_a_diverged_chain_is_left_out_and_flagged():
    diverged = unit(1)
    diverged[OBSERVED + "delta_loss"] = diverged[OBSERVED + "delta_loss"].copy()
    diverged[OBSERVED + "delta_loss"][1, 20:] = np.nan
    row = to_dataset([10], {10: diverged}, {}, MANIFEST).isel(checkpoint=0)
    assert row.llc == pytest.approx(10 * diverged[OBSERVED + "delta_loss"][0].mean(), rel=1e-5)
    assert np.isnan(row.llc_per_chain[1])
    assert not row.ok
    assert "1 of 2 chains left the finite numbers" in row.verdict.item()
    assert row.status == "done"


def test_all_chains_lost_is_nan():
    lost = unit(1, **{OBSERVED + "delta_loss": np.full((2, 50), np.nan, np.float32)})
    row = to_dataset([10], {10: lost}, {}, MANIFEST).isel(checkpoint=0)
    assert np.isnan(row.llc)
    assert not row.ok
    assert "all 2 chains" in row.verdict.item()


def test_names_that_metrics_may_not_have(dataset):
    check_names(["loss", "accuracy", "singular values"])
    own = {name for name in dataset.variables if not dataset[name].attrs.get("role")}
    for name in own - {"loss", "position"}:
        with pytest.raises(ValueError, match="metrics and observables cannot be named"):
            check_names(["accuracy", name])
