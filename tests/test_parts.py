"""Parts of the weights: chosen by path, sampled alone, at the cost of the part."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import assert_agrees

import sltjax
from sltjax.sampling import condition_all, lower_block
from sltjax.schedule import Schedule
from sltjax.validation import validate_select

PARAMS = {
    "blocks": [
        {"attention": {"query": jnp.arange(24.0).reshape(2, 3, 4), "out": jnp.arange(12.0).reshape(3, 4)}},
        {"mlp": {"kernel": jnp.ones((4, 5)), "bias": jnp.zeros(5)}},
    ],
    "embed": jnp.ones((7, 2)),
}


def test_leaves_are_taken_by_their_whole_paths():
    assert list(sltjax.part("blocks/1/.*")(PARAMS)) == ["blocks/1/mlp/bias", "blocks/1/mlp/kernel"]
    assert list(sltjax.part(["embed", ".*bias"])(PARAMS)) == ["embed", "blocks/1/mlp/bias"]
    with pytest.raises(ValueError, match="no parameter matches 'blocks'; there are 'blocks/0/attention/out'"):
        sltjax.part("blocks")(PARAMS)


def test_slices_are_those_of_numpy():
    head = sltjax.part({".*/query": ":, 1", ".*/out": "1"})(PARAMS)
    np.testing.assert_array_equal(head["blocks/0/attention/query"], PARAMS["blocks"][0]["attention"]["query"][:, 1])
    np.testing.assert_array_equal(head["blocks/0/attention/out"], PARAMS["blocks"][0]["attention"]["out"][1])
    (rows,) = sltjax.part({"embed": "1:-2:2, ..."})(PARAMS).values()
    np.testing.assert_array_equal(rows, PARAMS["embed"][1:-2:2, ...])


@pytest.mark.parametrize("index", ["x", ":, ", "1:2:3:4", "__import__('os')", "[0]"])
def test_what_is_no_index_is_refused(index):
    with pytest.raises(ValueError, match="is no index of an array"):
        sltjax.part({"embed": index})


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"\[0, 0, 0\] does not fit 'embed' of shape \[7, 2\]"):
        sltjax.part({"embed": "0, 0, 0"})(PARAMS)
    with pytest.raises(ValueError, match="is no regular expression"):
        sltjax.part("(")
    with pytest.raises(ValueError, match="at least one pattern"):
        sltjax.part([])


def test_equal_parts_are_one_and_travel():
    assert sltjax.part({"embed": ":, 0"}) == sltjax.part({"embed": ":, 0"})
    assert pickle.loads(pickle.dumps(sltjax.part("embed"))) == sltjax.part("embed")


CURVATURES = np.array([1.0, 1.0, 4.0, 4.0, 9.0], np.float32)


def quadratic(params, batch):
    """E loss = ½ Σ h w²: λ̂ of a part is ½ Σ nβ·h / (nβ·h + γ) over it, which counts its weights."""
    w = jnp.concatenate([params["a"], params["b"]])
    return jnp.square(batch * w).sum(axis=1) / 2


def unit_variance(num_examples):
    x = np.random.default_rng(0).choice([-1.0, 1.0], size=(num_examples, 5)).astype(np.float32)
    return x * np.sqrt(CURVATURES)


@pytest.mark.parametrize(
    ("pattern", "index", "kept"),
    [
        ("b", "1:", [3, 4]),
        pytest.param("b", "", [2, 3, 4], marks=pytest.mark.slow),
        pytest.param("a|b", "0", [0, 2], marks=pytest.mark.slow),
    ],
)
def test_the_coefficient_of_a_part_is_exact(pattern, index, kept):
    params = {"a": np.zeros(2, np.float32), "b": np.zeros(3, np.float32)}
    estimate = sltjax.estimate_llc(
        jax.random.key(0),
        quadratic,
        params,
        unit_variance(200),
        nbeta=100.0,
        gamma=10.0,
        select=sltjax.part({pattern: index}),
    )
    assert_agrees(estimate, np.sum(100 * CURVATURES[kept] / (100 * CURVATURES[kept] + 10)) / 2, cap=0.03)


@pytest.mark.slow
def test_a_sweep_of_a_part_holds_the_rest_where_each_checkpoint_has_it():
    """The frozen factor b scales the curvature of a, another at each checkpoint: λ̂ = ½ Σ nβ·b² / (nβ·b² + γ)."""

    def apply(params, batch):
        return batch * params["a"] * params["b"]

    x = np.random.default_rng(1).choice([-1.0, 1.0], size=(100, 3)).astype(np.float32)
    factors = [0.0, 0.1, 1.0]
    checkpoints = [
        (step, {"a": np.ones(3, np.float32), "b": np.full(3, b, np.float32)}) for step, b in enumerate(factors)
    ]
    found = sltjax.sweep(
        jax.random.key(0),
        sltjax.behavioral_loss(apply),
        sltjax.checkpoints.from_memory(checkpoints),
        x,
        nbeta=100.0,
        select=sltjax.part("a"),
        observables={"a": lambda params, info: params["a"]},
    )
    exact = [1.5 * 100 * b**2 / (100 * b**2 + 1) for b in factors]
    assert found.llc[0] == 0
    np.testing.assert_array_less(np.abs(found.llc - exact)[1:], 4 * found.llc_std_error[1:])
    assert (found.llc_std_error[1:] < 0.03 * found.llc[1:]).all()
    assert found.a.shape[-1] == 3
    assert '"num_parameters": 3' in found.definition


def test_a_step_costs_what_the_part_costs():
    """No gradient of what is frozen: a thousandth of the weights takes a small part of FLOPs and memory."""
    params = {"body": np.zeros((500, 500), np.float32), "head": np.zeros((500, 1), np.float32)}

    def loss(params, batch):
        return ((batch @ params["body"]) @ params["head"])[:, 0] ** 2

    data = np.zeros((8, 500), np.float32)
    schedule = Schedule(num_chains=4, num_draws=8, burn_in=0, thin=1, batch_size=8)

    def compiled(select):
        posterior = sltjax.LocalPosterior(loss, params, 10.0, 1.0, select=select)
        return lower_block(posterior, 1, sltjax.SGLD(1e-3), data, schedule)["advance"].compile()

    whole, part = compiled(None), compiled(sltjax.part("head"))
    assert part.cost_analysis()["flops"] < 0.2 * whole.cost_analysis()["flops"]
    moved = [c.memory_analysis().output_size_in_bytes for c in (whole, part)]
    assert moved[1] < 0.02 * moved[0]
    assert part.memory_analysis().temp_size_in_bytes < 4 * params["body"].nbytes  # not a copy a chain


@pytest.mark.parametrize(
    ("select", "match"),
    [
        (lambda params: {}, "holds no arrays"),
        (lambda params: 2 * params["a"], "as they are and each at most once"),
        (lambda params: (params["a"], params["a"]), "as they are and each at most once"),
    ],
)
def test_what_is_no_part_is_refused(select, match):
    params = {"a": np.ones(2, np.float32)}
    with pytest.raises(ValueError, match=match):
        sltjax.estimate_llc(
            jax.random.key(0), lambda w, x: x @ w["a"], params, np.ones((4, 2), np.float32), select=select
        )


def test_what_is_conditioned_on_is_shaped_like_the_part():
    params = {"a": np.ones(2, np.float32), "b": np.ones(3, np.float32)}
    posterior = sltjax.LocalPosterior(quadratic, params, 10.0, 1.0, select=sltjax.part("a"))
    stack = jax.tree.map(lambda w: w[None], params)
    conditioned = condition_all(posterior.at(stack), unit_variance(16), 4)
    assert jax.tree.map(jnp.shape, conditioned.anchor_gradient) == {"a": (1, 2)}


def test_a_union_takes_what_its_parts_take_and_no_entry_twice():
    params = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(2)}
    first, third, b = sltjax.part({"a": ":, 0"}), sltjax.part({"a": ":, 2"}), sltjax.part("b")
    both = first | third  # two slices of one leaf, which the patterns of a single part cannot name
    taken = [leaf.tolist() for leaf in jax.tree.leaves((both | b)(params))]
    assert taken == [[0, 3], [2, 5], [1, 1]]
    assert both | b == first | (third | b)
    overlapping = sltjax.LocalPosterior(lambda p, x: x, params, 1.0, 1.0, select=first | sltjax.part("a"))
    with pytest.raises(ValueError, match="takes one twice"):
        validate_select(overlapping)
