import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sltjax
from sltjax import schedule as schedule_module
from sltjax.sampling import Chains, condition_all, draw_batch, lower_block, sample_block
from sltjax.schedule import Schedule

DATA = jax.random.normal(jax.random.key(3), (50, 3))
SCHEDULE = Schedule(num_chains=3, num_draws=12, burn_in=5, thin=2, batch_size=10)


def loss(params, batch):
    return (batch @ (params["w"] - 0.3)) ** 4


def anchors(steps):
    return {"w": jnp.stack([jnp.array([0.1, 0.2, 0.3]) * (1 + step) for step in steps])}


def posteriors(steps):
    return condition_all(sltjax.LocalPosterior(loss, anchors(steps), 5.0, 1.0), DATA, 10)


def run(steps, schedule=SCHEDULE, step_size=1e-3, **keywords):
    key = keywords.pop("key", jax.random.key(0))
    return sample_block(key, posteriors(steps), np.array(steps), sltjax.SGLD(step_size), DATA, schedule, **keywords)


def test_shapes():
    trace = run([0, 1])
    assert trace["delta_loss"].shape == (2, 3, 12)
    assert trace["distance"].shape == (2, 3, 12)


def test_states_are_shown_after_every_chunk_of_draws():
    def position(params, info):
        return params["w"]

    seen = []
    drawn = run([0, 1], observables={"w": position}, on_draws=lambda states: seen.append(states.params["w"] + 0))["w"]
    first, total = SCHEDULE.burn_in_draws, SCHEDULE.burn_in_draws + SCHEDULE.num_draws
    ends = np.arange(SCHEDULE.chunk, total + SCHEDULE.chunk, SCHEDULE.chunk)
    assert len(seen) == np.sum(ends > first) > 4
    assert seen[0].shape == (2, 3, 3)
    inside = ends[(ends > first) & (ends < total)] - first  # the draw after, with thin = 2, is two steps on
    apart = np.abs(np.stack(seen)[: len(inside)] - np.moveaxis(drawn[:, :, inside], 2, 0))
    assert 0 < apart.max() < 0.2


def test_a_lane_does_not_depend_on_its_neighbours_or_its_place():
    first, other, moved = run([0, 1, 2])["delta_loss"], run([0, 5, 7])["delta_loss"], run([4, 2, 0])["delta_loss"]
    np.testing.assert_array_equal(first[0], other[0])
    np.testing.assert_array_equal(first[0], moved[2])
    np.testing.assert_array_equal(first[2], moved[1])


@pytest.mark.parametrize("batch_size", [10, 50])
def test_a_checkpoint_alone_draws_what_it_draws_beside_others(batch_size):
    """Alone it is no axis of its program."""

    def drawn(steps):
        sampled = condition_all(sltjax.LocalPosterior(loss, anchors(steps), 5.0, 1.0), DATA, batch_size)
        schedule = Schedule(num_chains=3, num_draws=12, burn_in=5, thin=2, batch_size=batch_size)
        return sample_block(jax.random.key(0), sampled, np.array(steps), sltjax.GHMC(0.02), DATA, schedule)

    alone, beside = drawn([4]), drawn([0, 4])
    for name, values in alone.items():
        assert values.shape == (1, 3, 12)
        np.testing.assert_allclose(values[0], beside[name][1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("batch_size", [10, 50])
def test_one_checkpoint_is_no_axis_of_a_step(batch_size):
    posterior = sltjax.LocalPosterior(loss, {"w": jnp.ones(3)}, 5.0, 1.0)
    schedule = Schedule(num_chains=3, num_draws=12, burn_in=5, thin=2, batch_size=batch_size)

    def program(width):
        return lower_block(posterior, width, sltjax.SGLD(1e-3), DATA, schedule)["advance"].as_text()

    assert f"tensor<1x3x{batch_size}xf32>" not in program(1)
    assert f"tensor<3x{batch_size}xf32>" in program(1)
    assert f"tensor<2x3x{batch_size}xf32>" in program(2)


@pytest.mark.parametrize("batch_size", [10, 50])
def test_a_batch_says_which_examples_it_holds(batch_size):
    batch, rows = draw_batch(jax.random.key(0), DATA, batch_size)
    assert len(batch) == batch_size
    np.testing.assert_array_equal(batch, DATA[rows])


@pytest.mark.parametrize(("draws", "chunk"), [(7, 1), (22, 2), (162, 9), (201, 17), (499, 50), (10_000, 50)])
def test_short_runs_draw_few_in_vain(draws, chunk):
    schedule = Schedule(num_chains=1, num_draws=draws, burn_in=0, thin=1, batch_size=1)
    assert schedule.chunk == chunk
    assert min(draws, 10) <= -(-draws // chunk) <= max(20, draws // 50)
    assert -draws % chunk <= 0.02 * draws


@pytest.mark.parametrize("chunks", [1, 3, 100])
def test_draws_do_not_depend_on_chunks(monkeypatch, chunks):
    expected = run([0, 1])
    monkeypatch.setattr(schedule_module, "CHUNKS", chunks)
    for name, values in run([0, 1]).items():
        np.testing.assert_array_equal(values, expected[name])


@pytest.mark.parametrize("burn_in", [5, 40])
def test_chains_go_on_as_if_they_had_never_stopped(burn_in):
    """From within an earlier chunk, to a burn-in that ends among the earlier draws or after them."""
    longer = Schedule(num_chains=3, num_draws=60, burn_in=burn_in, thin=2, batch_size=10)
    chains = Chains(jax.random.key(0), posteriors([0, 1]), np.arange(2), sltjax.SGLD(1e-3), DATA, 3)
    told = []
    short = chains.run(SCHEDULE, told.append)
    assert sum(told) == SCHEDULE.num_steps * 2 * 3
    for name, values in run([0, 1]).items():
        np.testing.assert_array_equal(short[name], values)
    for name, values in run([0, 1], longer).items():
        np.testing.assert_array_equal(chains.run(longer)[name], values)
    length = chains.done
    chains.run(longer)
    assert chains.done == length


def test_thinning_records_the_last_of_every_few_steps():
    every = run([0], Schedule(num_chains=2, num_draws=30, burn_in=0, thin=1, batch_size=10))["distance"]
    third = run([0], Schedule(num_chains=2, num_draws=10, burn_in=0, thin=3, batch_size=10))["distance"]
    np.testing.assert_array_equal(third, every[..., 2::3])


def test_burn_in_is_left_out():
    every = run([0], Schedule(num_chains=2, num_draws=30, burn_in=0, thin=1, batch_size=10))["distance"]
    late = run([0], Schedule(num_chains=2, num_draws=22, burn_in=8, thin=1, batch_size=10))["distance"]
    np.testing.assert_array_equal(late, every[..., 8:])


def test_what_is_recorded_is_seen_before_the_step_with_a_fresh_batch():
    trace = run([0], Schedule(num_chains=2, num_draws=5, burn_in=0, thin=1, batch_size=10))
    assert (trace["distance"][..., 0] == 0).all()
    rounding = 1e-6 * loss({"w": anchors([0])["w"][0]}, DATA).mean()
    assert np.abs(trace["delta_loss"][..., 0]).max() < rounding
    assert np.abs(trace["delta_loss"][..., 1:]).min() > 100 * rounding


def test_a_lost_lane_touches_no_other():
    def both(step_sizes):
        sampler = sltjax.SGLD(np.array(step_sizes, np.float32))
        trace = sample_block(jax.random.key(0), posteriors([0, 1, 2]), np.arange(3), sampler, DATA, SCHEDULE)
        return trace["delta_loss"]

    sound, one_lost = both([1e-3, 1e-3, 1e-3]), both([1e-3, 1e9, 1e-3])
    assert not np.isfinite(one_lost[1]).all()
    np.testing.assert_array_equal(one_lost[[0, 2]], sound[[0, 2]])


def test_any_kind_of_key_gives_chains_of_their_own():
    keys = [jax.random.PRNGKey(0), jax.random.key(0), jax.random.key(0, impl="rbg")]
    old, new, rbg = (run([0, 1], key=key)["delta_loss"] for key in keys)
    np.testing.assert_array_equal(old, new)
    for draws in (new, rbg):
        lanes = draws.reshape(6, -1)[:, 1:]
        assert len(np.unique(lanes[:, 0])) == 6
    anchor = {"w": jnp.array([0.1, 0.2, 0.3])}  # that of step 0, which seeds the noise of `sample`
    posterior = sltjax.LocalPosterior(loss, anchor, 5.0, 1.0)
    lengths = {"num_chains": 3, "num_draws": 12, "burn_in": 5, "thin": 2, "batch_size": 10}
    for key, draws in zip(keys, (old, new, rbg), strict=True):
        one = sltjax.sample(key, posterior, sltjax.SGLD(1e-3), DATA, **lengths)["delta_loss"]
        np.testing.assert_allclose(one, draws[0], rtol=1e-5, atol=1e-7)


def test_which_examples_a_batch_has_is_computed_once_not_for_each_number_of_theirs():
    posterior = sltjax.LocalPosterior(loss, {"w": jnp.zeros(3)}, 5.0, 1.0)
    text = lower_block(posterior, 1, sltjax.SGLD(1e-3), DATA, SCHEDULE)["advance"].compile().as_text()
    gathering = [part for part in text.split("\n\n") if " gather(" in part]
    assert gathering
    assert not any(" xor(" in part for part in gathering)


def test_observables_record_what_they_are_given():
    posterior = sltjax.LocalPosterior(loss, {"w": jnp.zeros(3)}, 5.0, 1.0)
    trace = sltjax.sample(
        jax.random.key(0),
        posterior,
        sltjax.SGLD(1e-3),
        DATA,
        observables={"w": lambda params, info: params["w"], "u": lambda params, info: info.potential},
        num_draws=6,
        burn_in=2,
        batch_size=50,
    )
    assert trace["w"].shape == (4, 6, 3)
    full = [float(loss({"w": w}, DATA).mean() - loss({"w": jnp.zeros(3)}, DATA).mean()) for w in trace["w"][0]]
    expected = 5.0 * np.array(full) + 0.5 * np.sum(trace["w"][0] ** 2, axis=1)
    np.testing.assert_allclose(trace["u"][0], expected, rtol=1e-3, atol=1e-4)


def test_progress_is_told_in_chain_steps():
    told = []
    run([0, 1], on_chunk=told.append)
    assert sum(told) == SCHEDULE.num_steps * 2 * 3


def fragile(params, batch):
    """NaN beyond a wall that the data bring, so that one program serves with and without a fault."""
    beyond = jnp.max(jnp.abs(params["w"])) > batch["wall"]
    return (batch["x"] @ (params["w"] - 0.3)) ** 4 * jnp.where(beyond, jnp.nan, 1.0)


@pytest.mark.parametrize("sampler", [sltjax.SGLD(3e-3), sltjax.UnderdampedLangevin(0.05)], ids=["sgld", "underdamped"])
def test_a_lane_that_turns_nan_touches_no_other(sampler):
    """Trust 12: the others are bit-identical to those of a run without the fault; the loss stays and is told."""

    def draw(wall):
        data = {"x": DATA, "wall": jnp.full(50, wall)}
        posterior = sltjax.LocalPosterior(fragile, anchors([0, 1]), 5.0, 1.0)
        schedule = Schedule(num_chains=6, num_draws=40, burn_in=10, thin=2, batch_size=10)
        key, steps = jax.random.key(0), np.array([0, 1])
        return sample_block(key, condition_all(posterior, data, 10), steps, sampler, data, schedule)

    whole, faulty = draw(np.inf), draw(0.8)
    lost = np.isnan(faulty["delta_loss"]).any(axis=2)
    assert 2 <= lost.sum() < lost.size  # some, and not all
    for name in whole:
        np.testing.assert_array_equal(faulty[name][~lost], whole[name][~lost])
    for lane in faulty["delta_loss"][lost]:
        first = np.isnan(lane).argmax()
        assert np.isnan(lane[first:]).all()  # where it was lost it stays
    for checkpoint in range(2):
        found = sltjax.llc({"delta_loss": faulty["delta_loss"][checkpoint]}, 5.0)
        survivors = whole["delta_loss"][checkpoint][~lost[checkpoint]]
        assert found.value == pytest.approx(5.0 * survivors.mean(), rel=1e-5)
        np.testing.assert_array_equal(found.health.failed_draw >= 0, lost[checkpoint])
        assert not found.health.ok


def test_bfloat16_weights_are_sampled_in_float32():
    """Trust 15: a step of a thousandth would round away beside a weight of 3 in bfloat16."""
    params = {"w": jnp.full(3, 3.0, jnp.bfloat16)}
    posterior = sltjax.LocalPosterior(loss, params, 5.0, 1.0)
    settings = {"num_chains": 2, "num_draws": 40, "burn_in": 0, "batch_size": 50}

    def position(params, info):
        return params["w"]

    trace = sltjax.sample(
        jax.random.key(0), posterior, sltjax.SGLD(1e-7), DATA, observables={"w": position}, **settings
    )
    assert trace["w"].dtype == jnp.float32
    moved = np.abs(np.diff(trace["w"], axis=1))
    assert (moved > 0).all()
    assert moved.max() < 0.004  # half the gap between bfloat16 neighbours at 3
