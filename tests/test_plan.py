"""What a sweep will take, said before anything of it is spent, and calibration apart from the run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sltjax
from sltjax.checkpoints import Skipped, from_memory
from sltjax.sweeps import calibrate_sweep, plan
from sltjax.sweeps import plan as plan_function

KEY = jax.random.key(0)
DATA = jax.random.normal(KEY, (256, 4))
STEPS = tuple(range(0, 60, 5))
SETTLED = {"num_chains": 2, "num_draws": 100, "burn_in": 50, "thin": 2, "batch_size": 32, "block_size": 5}


def loss(params, batch):
    return jnp.sum((batch @ params["w"]) ** 2, axis=1) / 2


def source(steps=STEPS):
    rng = np.random.default_rng(0)
    return from_memory([(step, {"w": rng.normal(size=(4, 3)).astype(np.float32)}) for step in steps])


@pytest.fixture(scope="module")
def settled(tmp_path_factory):
    jax.clear_caches()  # so that there is something to compile
    store = tmp_path_factory.mktemp("plan") / "store"
    return plan(KEY, loss, source(), DATA, store=store, sampler=sltjax.SGLD(1e-4), **SETTLED), store


def test_it_counts_what_there_is(settled):
    found, store = settled
    assert found.steps == STEPS
    assert found.skipped == ()
    assert (found.done, found.num_lanes, found.num_blocks, found.block_size) == (0, 24, 3, 5)
    assert (found.num_parameters, found.num_examples, found.batch_size) == (12, 256, 32)
    assert found.devices == "1 × cpu"
    assert found.is_calibrated
    assert found.chain_steps == (2 * (50 + 200),)
    gradient = 6 * 12 * 32  # FLOPs: a product of 4 × 3 an example, forth and twice back
    assert found.flops[0] == pytest.approx(3 * 5 * 2 * 250 * gradient, rel=0.5)
    assert found.disk == (2 * 12 * 3 * 2 * 100 * 4,)  # ΔL, |w − w*| and acceptance, in units and Dataset
    assert not store.exists()  # nothing is written


def test_it_measures_what_only_a_run_tells(settled):
    found, _ = settled
    assert 0 < found.memory < 2**26 < found.memory_limit
    assert 1 <= found.programs < 40
    assert 0 < found.compile_seconds < 100
    assert 0 < found.seconds[0] < 60


@pytest.mark.slow
def test_memory_grows_with_the_block():
    narrow, wide = (
        plan(KEY, loss, source(), DATA, sampler=sltjax.SGLD(1e-4), **{**SETTLED, "block_size": size}).memory
        for size in (1, 12)
    )
    assert 3 < wide / narrow < 13


@pytest.mark.slow
def test_before_calibration_lengths_are_bounds_and_after_it_they_are_not(tmp_path):
    budget = {"num_chains": 2, "max_chain_steps": 40_000, "batch_size": 256}
    before = plan(KEY, loss, source(), DATA, store=tmp_path, **budget)
    assert not before.is_calibrated
    assert before.chain_steps[0] < before.chain_steps[1] <= 40_000
    assert before.seconds[0] < before.seconds[1]
    chosen = calibrate_sweep(KEY, loss, source(), DATA, store=tmp_path, **budget)
    after = plan(KEY, loss, source(), DATA, store=tmp_path, **budget)
    assert after.chain_steps == (chosen.chain_steps,)
    dataset = sltjax.sweep(KEY, loss, source(), DATA, store=tmp_path, **budget)  # goes on with what was chosen
    assert dataset.sizes["draw"] == chosen.schedule.num_draws
    assert plan(KEY, loss, source(), DATA, store=tmp_path, **budget).done == len(STEPS)
    with pytest.raises(sltjax.StoreError, match="has been begun, and its numerics are settled"):
        calibrate_sweep(KEY, loss, source(), DATA, store=tmp_path, **budget)


def test_what_cannot_work_is_refused_as_by_the_sweep():
    with pytest.raises(ValueError, match="batch_size = 999 exceeds the 256 examples"):
        plan_function(KEY, loss, source(), DATA, batch_size=999)


def test_what_is_skipped_is_told():
    class Some:
        name, steps, skipped = "some", STEPS, (Skipped("tmp.7", "never finished"),)

        def load(self, step):
            return source().load(step)

    assert plan(KEY, loss, Some(), DATA, sampler=sltjax.SGLD(1e-4), **SETTLED).skipped == Some.skipped
