"""The diagnostics of a sweep, each against what its own function makes of the same draws."""

import json
from html import unescape

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sltjax
from sltjax import columns
from sltjax.checkpoints import CheckpointError, from_memory
from sltjax.observables import losses, part_losses
from sltjax.report import write_report

N = 40
DATA = {"x": np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)}
PARTS = {"v": sltjax.part("v"), "w": sltjax.part("w")}
SHORT = {
    "num_chains": 2,
    "num_draws": 30,
    "burn_in": 20,
    "thin": 1,
    "batch_size": N,
    "sampler": sltjax.MALA(0.02),
    "gamma": 2.0,
}
LONGER = SHORT | {"num_draws": 400, "num_chains": 4, "burn_in": 400, "sampler": sltjax.GHMC(0.02)}
ALL = ("wbic", "free_energy", "singular_fluctuation", "influence", "susceptibility", "interactions", "hessian")
BROKEN = 20


def loss(params, batch):
    away = batch["x"] @ params["v"] * params["w"][0] - batch["x"][:, 0]
    return away**2 / 2 + params["w"][1] ** 2 / 2


def weights(step):
    return {"v": np.float32([1, 0.01 * step, 0]), "w": np.float32([1, 0.1])}


class Run:
    """Four checkpoints, of which one is broken."""

    name, steps, skipped = "a run", (0, 10, BROKEN, 30), ()

    def load(self, step):
        if step == BROKEN:
            raise CheckpointError("file is truncated")
        return weights(step)


def swept(store=None, *, source=None, **changed):
    return sltjax.sweep(jax.random.key(0), loss, source or Run(), DATA, store=store, **SHORT | changed)


@pytest.fixture(scope="module")
def recorded():
    return {"part_losses": part_losses(loss, PARTS, DATA)}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("columns") / "store"


@pytest.fixture(scope="module")
def dataset(store, recorded):
    return swept(store, observables=recorded, diagnostics=ALL).load()


def one(dataset, step):
    """The row of a step, and its trace as a diagnostic takes it."""
    row = dataset.isel(checkpoint=list(dataset.step.values).index(step))
    names = ("delta_loss", "losses", "part_losses")
    return row, {name: row[name].values for name in names if name in row} | {"acceptance": row.acceptance.values}


def agrees(row, name, found):
    assert float(row[name]) == pytest.approx(float(found.value), rel=1e-6)
    assert float(row[f"{name}_std_error"]) == pytest.approx(float(found.std_error), rel=1e-6)


@pytest.mark.parametrize("step", [0, 30])
def test_numbers_are_those_of_their_functions(dataset, step):
    row, trace = one(dataset, step)
    llc, at_anchor = sltjax.llc(trace, dataset.nbeta), float(row.loss)
    agrees(row, "wbic", sltjax.wbic(trace, N, at_anchor))
    agrees(row, "free_energy", sltjax.free_energy(llc, N, at_anchor))
    agrees(row, "singular_fluctuation", sltjax.singular_fluctuation(trace, dataset.nbeta / N))
    assert float(row.llc) == pytest.approx(float(llc.value))


def test_the_spectrum_is_that_of_the_checkpoint(dataset):
    row, _ = one(dataset, 30)
    found = sltjax.hessian_spectrum(jax.random.key(1), loss, weights(30), DATA)
    assert found.is_exact
    np.testing.assert_allclose(np.sort(columns.spectrum_of(row).nodes.ravel()), np.sort(found.nodes.ravel()), atol=1e-5)
    agrees(row, "hessian_trace", found.trace)
    agrees(row, "hessian_count", found.effective_count(dataset.nbeta, dataset.gamma))
    assert row["hessian.top"].shape == (5,)


def test_arrays_are_those_of_their_functions(dataset):
    row, trace = one(dataset, 10)
    influence = sltjax.bayesian_influence(trace["losses"])
    np.testing.assert_allclose(row.influence, influence.value, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(row.influence_std_error, influence.std_error, rtol=1e-5, atol=1e-7)
    answers = sltjax.susceptibilities({"all": trace})
    np.testing.assert_allclose(row.susceptibility, answers.value[0], rtol=1e-4, atol=1e-7)
    graph = sltjax.loss_interactions(trace["part_losses"], tuple(PARTS))
    back = columns.interactions_of(row)
    assert back.components == graph.components == ("v", "w")
    np.testing.assert_allclose(back.value, graph.value, rtol=1e-5)
    np.testing.assert_allclose(back.strength, graph.strength, rtol=1e-5)


def test_coordinates_say_which_examples_and_components(dataset):
    np.testing.assert_array_equal(dataset.example, np.arange(N))
    assert dataset.component.values.tolist() == ["v", "w"]
    assert json.loads(dataset.attrs["diagnostics"])["interactions"] == {"components": ["v", "w"]}


def test_a_failed_checkpoint_is_a_gap_in_all_of_them(dataset):
    row, _ = one(dataset, BROKEN)
    assert row.verdict == "file is truncated"
    for name in ("wbic", "hessian_trace", "hessian.top", "influence", "susceptibility_std_error", "interactions"):
        assert np.isnan(row[name]).all()


def test_memory_and_store_hold_the_same(dataset, recorded):
    in_memory = swept(observables=recorded, diagnostics=ALL)
    assert set(in_memory.variables) == set(dataset.variables)
    for name in ("wbic", "influence", "hessian.nodes", "interactions"):
        np.testing.assert_array_equal(in_memory[name], dataset[name])


def test_a_part_has_those_of_its_own(dataset):
    of_part = swept(source=from_memory({0: weights(0)}), select=PARTS["v"], diagnostics=["susceptibility", "hessian"])
    row, trace = one(of_part, 0)
    found = sltjax.susceptibilities({"v": trace})
    np.testing.assert_allclose(row.susceptibility, found.value[0], rtol=1e-4, atol=1e-7)
    both = columns.susceptibilities_of({"v": row, "all": one(dataset, 0)[0]})
    assert both.components == ("v", "all")
    np.testing.assert_allclose(both.value[0], found.value[0], rtol=1e-4, atol=1e-7)
    assert columns.spectrum_of(row).nodes.size == 3


def test_waic_is_of_the_posterior_at_n():
    found = swept(source=from_memory({0: weights(0)}), nbeta=float(N), diagnostics=["waic"])
    row, trace = one(found, 0)
    agrees(row, "waic", sltjax.waic(trace))
    assert "singular_fluctuation" not in found


def test_a_lambda_below_the_rank_of_the_hessian_is_warned_of():
    """At a saddle: chains that leave it find lower losses than any minimum's shape allows."""

    def saddle(params, batch):
        return batch["x"][:, 0] * 0 + 5 * params["v"][0] ** 2 - params["v"][1] ** 2 / 2 + params["v"][1] ** 4 / 8

    at_saddle = from_memory({0: {"v": np.zeros(2, np.float32)}})
    found = sltjax.sweep(jax.random.key(0), saddle, at_saddle, DATA, diagnostics=["hessian"], **LONGER)
    assert "below half the effective rank of the Hessian" in str(found.verdict.values[0])
    assert not found.ok.values[0]


def test_warnings_of_a_diagnostic_are_named_by_it_and_leave_lambda_alone():
    x = DATA["x"] * np.float32([1, 0, 1])
    x[3] = 0, 30, 0  # this example alone says what the second weight is
    source = from_memory({0: weights(0)})
    found = sltjax.sweep(jax.random.key(0), loss, source, {"x": x}, nbeta=float(N), diagnostics=["waic"], **LONGER)
    assert "waic: the log-likelihood of" in str(found.verdict.values[0])


def test_a_loss_that_is_not_finite_is_a_gap_and_ends_nothing():
    found = swept(
        source=from_memory({0: weights(0), 1: {"v": np.full(3, 3e38, np.float32), "w": weights(0)["w"]}}),
        diagnostics=(*ALL[:-2], "hessian"),
    )
    for name in ("wbic", "free_energy", "singular_fluctuation", "influence", "susceptibility", "hessian_rank"):
        assert np.isfinite(found[name][0]).all(), name
        assert np.isnan(found[name][1]).all(), name
    assert not found.ok.values[1]


def test_many_examples_are_compared_in_part():
    x = np.random.default_rng(1).normal(size=(600, 3)).astype(np.float32)
    source = from_memory({0: weights(0)})
    asked = {"batch_size": 600, "diagnostics": ["influence", "singular_fluctuation"]}
    found = sltjax.sweep(jax.random.key(0), loss, source, {"x": x}, **SHORT | asked)
    assert found.losses.shape[-1] == 600
    assert found.influence.shape == (1, columns.COMPARED, columns.COMPARED)
    some = found.example.values
    assert (some[0], some[-1]) == (0, 599)
    expected = sltjax.bayesian_influence(found.losses.values[0][:, :, some])
    np.testing.assert_allclose(found.influence[0], expected.value, rtol=1e-5, atol=1e-7)
    alone = sltjax.sweep(jax.random.key(0), loss, source, {"x": x}, **SHORT | asked | {"diagnostics": ["influence"]})
    assert alone.losses.shape[-1] == columns.COMPARED
    np.testing.assert_allclose(alone.influence[0], found.influence[0], rtol=1e-3, atol=1e-5)


def test_observables_bring_what_costs_nothing_more(recorded):
    found = swept(source=from_memory({0: weights(0)}), observables={**recorded, "losses": losses(loss, DATA)})
    assert "singular_fluctuation" in found
    assert "interactions" in found
    assert "waic" not in found  # nβ is not n
    assert "influence" not in found


def test_another_choice_is_another_sweep(store, dataset, recorded):
    with pytest.raises(sltjax.StoreError, match="hessian"):
        swept(store, observables=recorded, diagnostics=[name for name in ALL if name != "hessian"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"diagnostics": ["wbicc"]}, "there is no 'wbicc'; did you mean 'wbic'"),
        ({"diagnostics": ["waic"]}, "waic is of the posterior at nβ = n, which is 40 here, and the sweep is at 10.8"),
        ({"diagnostics": ["wbic"], "nbeta": 40.0}, r"wbic is of the posterior at nβ = n/log n, which is 10\.8"),
        ({"diagnostics": ["interactions"]}, 'record observables={"part_losses": '),
        ({"diagnostics": ["hessian"], "metrics": {"hessian": lambda params, data: 0}}, "cannot be named"),
        ({"metrics": {"influence": lambda params, data: 0}}, "cannot be named"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_sampled(changed, said):
    with pytest.raises(ValueError, match=said):
        swept(**changed)


def test_a_behavioral_loss_has_no_evidence():
    behavioral = sltjax.behavioral_loss(lambda params, batch: batch["x"] @ params["v"])
    for name in ("wbic", "singular_fluctuation"):
        with pytest.raises(ValueError, match=f"{name} is of negative log-likelihoods"):
            sltjax.sweep(jax.random.key(0), behavioral, Run(), DATA, diagnostics=[name], **SHORT)


def test_the_report_shows_all_of_them(dataset, tmp_path):
    parts = {name: swept(source=Run(), select=select, diagnostics=["susceptibility"]) for name, select in PARTS.items()}
    page = write_report(dataset, sltjax.stages(dataset), tmp_path / "report.html", parts).read_text()
    for said in (
        "diagnostics over training",
        "the spectrum of the Hessian",
        "influences between examples",
        "susceptibilities of parts",
        "interactions of parts",
        "at step 30",
        "Modules: ",
    ):
        assert said in page
    heads = [head for head in ("WBIC", "free energy", "ν̂", "tr H", "rank H", "held by H") if f">{head}<" in page]
    assert len(heads) == 6
    assert "watanabe2013widely" in page
    assert "kreer2025bayesian" in page
    assert "diagnostics=['free_energy', " in unescape(page)


def test_a_spectrum_that_is_estimated_is_stored_with_its_error():
    size = 1100  # more than 16 × 64 products

    def wide(params, batch):
        return jnp.sum(jnp.square(params["w"]) * jnp.linspace(0.1, 1, size)) / 2 + 0 * batch["x"][:, 0]

    source = from_memory({0: {"w": np.zeros(size, np.float32)}})
    found = sltjax.sweep(jax.random.key(0), wide, source, DATA, diagnostics=["hessian"], **SHORT)
    error = float(found.hessian_trace_std_error[0])
    assert 0 < error < 10
    assert abs(float(found.hessian_trace[0]) - 0.55 * size) < 4 * error
