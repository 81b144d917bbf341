"""What is recorded at a draw, and how often it is evaluated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sltjax
from sltjax import fingerprint
from sltjax.observables import bind, distance, losses, traceable
from sltjax.results import bytes_a_unit
from sltjax.sampling import condition_all, lower_block, sample_block
from sltjax.schedule import Schedule

DATA = jax.random.normal(jax.random.key(3), (60, 3))
EXAMPLES = DATA[:7]
PARAMS = {"a": jnp.array([0.1, 0.2, 0.3]), "b": jnp.array([1.0, -1.0])}
NUMBERS = {"num_chains": 2, "num_draws": 10, "burn_in": 4, "batch_size": 60}


def outputs(params, batch):
    return jnp.tanh(batch @ params["a"])[:, None] * params["b"]


def loss(params, batch):
    return jnp.sum((outputs(params, batch) - 0.5) ** 2, axis=1)


def position(params, info):
    return params


def draw(loss, recorded, select=None):
    posterior = sltjax.LocalPosterior(loss, PARAMS, 20.0, 1.0, select=select)
    observables = {"losses": losses(recorded, EXAMPLES), "w": position}
    return sltjax.sample(
        jax.random.key(0), posterior, sltjax.SGLD(1e-2), DATA, observables=observables, thin=3, **NUMBERS
    )


def expected(loss, whole):
    """By hand, draw by draw."""
    at = jax.vmap(jax.vmap(lambda w: loss(w, EXAMPLES)))
    return at(whole)


def test_losses_are_those_of_the_draws():
    trace = draw(loss, loss)
    assert trace["losses"].shape == (2, 10, 7)
    assert trace["losses"].dtype == np.float32
    np.testing.assert_allclose(trace["losses"], expected(loss, trace["w"]), rtol=1e-6)
    assert np.ptp(trace["losses"], axis=(0, 1)).min() > 1e-3


@pytest.mark.parametrize("select", [None, sltjax.part("a")], ids=["whole", "part"])
def test_the_distance_is_that_of_what_chains_move(select):
    posterior = sltjax.LocalPosterior(loss, PARAMS, 20.0, 1.0, select=select)
    observables = {"distance": distance, "w": position}
    trace = sltjax.sample(
        jax.random.key(0), posterior, sltjax.SGLD(1e-2), DATA, observables=observables, thin=3, **NUMBERS
    )
    moved = jax.tree.map(lambda w, start: np.square(w - start).sum(axis=-1), trace["w"], posterior.start)
    np.testing.assert_allclose(trace["distance"], np.sqrt(sum(moved.values())), rtol=1e-5)
    assert trace["distance"].min() > 1e-3


@pytest.mark.parametrize("kind", ["own loss", "behaviour"])
def test_losses_are_of_the_whole_parameters_where_chains_move_a_part(kind):
    sampled = loss if kind == "own loss" else sltjax.behavioral_loss(outputs)
    trace = draw(sampled, sampled, select=sltjax.part("a"))
    whole = {"a": trace["w"]["a"], "b": jnp.broadcast_to(PARAMS["b"], (2, 10, 2))}
    at_anchor = loss if kind == "own loss" else sampled.at(PARAMS)
    np.testing.assert_allclose(trace["losses"], expected(at_anchor, whole), rtol=1e-5, atol=1e-8)


def test_another_loss_may_be_recorded_than_the_one_sampled():
    trace = draw(sltjax.behavioral_loss(outputs), loss)
    np.testing.assert_allclose(trace["losses"], expected(loss, trace["w"]), rtol=1e-6)


def test_a_behavioral_loss_is_recorded_from_the_anchor_of_each_checkpoint():
    behaviour = sltjax.behavioral_loss(outputs)
    anchors = jax.tree.map(lambda w: jnp.stack([w, 2 * w]), PARAMS)
    posteriors = condition_all(sltjax.LocalPosterior(behaviour, anchors, 20.0, 1.0), DATA, 60)
    observables = {"losses": losses(behaviour, EXAMPLES), "w": position}
    schedule = Schedule(num_chains=2, num_draws=4, burn_in=0, thin=1, batch_size=60)
    trace = sample_block(jax.random.key(0), posteriors, np.arange(2), sltjax.SGLD(1e-2), DATA, schedule, observables)
    for c in range(2):
        here = behaviour.at(jax.tree.map(lambda w, c=c: w[c], anchors))
        drawn = jax.tree.map(lambda w, c=c: w[c], trace["w"])
        np.testing.assert_allclose(trace["losses"][c], expected(here, drawn), rtol=1e-5, atol=1e-8)
    assert (trace["losses"][:, :, 0] == 0).all()  # the first draw, at the anchor


def test_observables_are_evaluated_once_a_draw_and_not_in_burn_in():
    calls = []

    def counted(params, info):
        jax.debug.callback(lambda: calls.append(1))
        return info.measured.delta_loss

    posterior = sltjax.LocalPosterior(loss, PARAMS, 20.0, 1.0)
    sltjax.sample(jax.random.key(0), posterior, sltjax.SGLD(1e-2), DATA, observables={"x": counted}, thin=3, **NUMBERS)
    jax.effects_barrier()
    assert len(calls) == NUMBERS["num_draws"]  # vmapped over chains


def test_examples_are_arguments_of_the_program():
    """Other examples of the same shape run in the same program, and none lie in it as constants."""
    posterior = sltjax.LocalPosterior(loss, PARAMS, 20.0, 1.0)
    schedule = Schedule(num_chains=2, num_draws=4, burn_in=0, thin=1, batch_size=60)

    def lowered(examples):
        observables = {"losses": losses(loss, examples)}
        return lower_block(posterior, 1, sltjax.SGLD(1e-2), DATA, schedule, observables)["advance"].as_text()

    assert lowered(EXAMPLES) == lowered(EXAMPLES + 1)
    assert jax.tree.leaves(traceable(losses(loss, EXAMPLES)))[0] is EXAMPLES


def test_a_sweep_knows_their_size_and_what_they_are():
    schedule = Schedule(num_chains=2, num_draws=4, burn_in=0, thin=1, batch_size=60)
    whole = sltjax.LocalPosterior(sltjax.behavioral_loss(outputs), PARAMS, 20.0, 1.0)
    other = whole.at(jax.tree.map(lambda w: w + 1, PARAMS))
    recorded = {"losses": losses(sltjax.behavioral_loss(outputs), EXAMPLES)}
    part = sltjax.LocalPosterior(loss, PARAMS, 20.0, 1.0, select=sltjax.part("b"))
    assert bytes_a_unit(recorded, part, schedule) == {"losses": 2 * 4 * 7 * 4}
    same, moved = (fingerprint.of_observables(recorded, posterior) for posterior in (whole, other))
    assert same == moved
    assert fingerprint.of_observables({"losses": losses(whole.loss, EXAMPLES + 1)}, whole) != same


def test_an_observable_of_ones_own_is_left_as_it_is():
    posterior = sltjax.LocalPosterior(loss, PARAMS, 20.0, 1.0)
    assert bind(position, posterior) is position
