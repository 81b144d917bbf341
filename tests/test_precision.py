import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sltjax import precision
from sltjax.precision import with_rounded_products

X, W, V = (jax.random.normal(jax.random.key(seed), size) for seed, size in enumerate([(16, 8), (8, 5), (5, 6)]))
PARAMS = {"w": W, "v": V}


@pytest.fixture(autouse=True)
def small_matrices_are_large(monkeypatch):
    monkeypatch.setattr(precision, "LARGE", 0)


def rounded(function):
    return with_rounded_products(function, jnp.bfloat16)


def near(x):
    """What bfloat16 keeps of an array."""
    return x.astype(jnp.bfloat16).astype(jnp.float32)


def network(params, x):
    return jax.nn.softmax(jax.nn.relu(x @ params["w"]) @ params["v"])


def assert_equal(found, expected):
    """To the last bits of float32, in which sums may be taken in another order."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


def test_matrices_are_rounded_and_nothing_else():
    expected = jax.nn.softmax(near(jax.nn.relu(near(X) @ near(W))) @ near(V))
    assert_equal(rounded(network)(PARAMS, X), expected)
    assert float(jnp.abs(expected - network(PARAMS, X)).max()) > 1e-3

    def fine(x):
        return 1 + x / 1024  # of which bfloat16 keeps 1

    np.testing.assert_array_equal(rounded(lambda x: fine(x) @ jnp.eye(8))(X), near(fine(X)))
    np.testing.assert_array_equal(rounded(fine)(X), fine(X))


@pytest.mark.parametrize(
    "product",
    [
        lambda x: x @ W[:, 0],
        lambda x: x @ W[:, :1],
        lambda x: jnp.vdot(x, x),
        lambda x: jnp.einsum("ij,ij->i", x, x),
        lambda x: jnp.matmul(x, W, precision="highest"),
        lambda x: x.astype(jnp.bfloat16) @ W.astype(jnp.bfloat16),
    ],
)
def test_products_that_stay_as_they_are(product):
    np.testing.assert_array_equal(rounded(product)(X), product(X))


def test_gradients_are_products_of_rounded_matrices():
    y, pull = jax.vjp(rounded(lambda x, w: x @ w), X, W)
    cotangent = jax.random.normal(jax.random.key(9), y.shape)
    to_x, to_w = pull(cotangent)
    assert_equal(to_x, near(cotangent) @ near(W).T)
    rows = X.T @ cotangent if jax.default_backend() == "cpu" else near(X).T @ near(cotangent)
    assert_equal(to_w, rows)


def test_tangents_are_products_of_rounded_matrices():
    change = jax.random.normal(jax.random.key(9), W.shape)
    _, along = jax.jvp(lambda w: rounded(lambda w: X @ w)(w), (W,), (change,))
    assert_equal(along, near(X) @ near(change))


BATCHES = [axes for axes in itertools.product([0, 1, 2, None], repeat=2) if axes != (None, None)]


@pytest.mark.parametrize("axes", BATCHES)
@pytest.mark.parametrize("equation", ["ab,bc->ac", "ab,cb->ac", "ba,bc->ac", "ba,cb->ac"])
@pytest.mark.parametrize("turned", [False, True])
def test_products_of_batches(axes, equation, turned):
    """XLA's CPU compiler fails at some that transpose the first, and has these in float32: others are rounded."""
    sizes = {"a": 7, "b": 8, "c": 5}
    left, right = equation.split("->")[0].split(",")

    def operand(seed, letters, batch):
        size = [sizes[letter] for letter in letters]
        return jax.random.normal(jax.random.key(seed), size if batch is None else [*size[:batch], 3, *size[batch:]])

    def product(x, w):
        return jnp.einsum(equation, x.T if turned else x, w)

    x, w = operand(0, left[::-1] if turned else left, axes[0]), operand(1, right, axes[1])
    found = jax.vmap(rounded(product), in_axes=axes)(x, w)
    rough, fine = (jax.vmap(product, in_axes=axes)(a, b) for a, b in ((near(x), near(w)), (x, w)))
    from_rough, from_fine = (float(jnp.abs(found - each).max()) for each in (rough, fine))
    assert min(from_rough, 1 if left == "ab" else from_fine) < 1e-5


def test_batches_are_left_where_jax_leaves_them():
    """A transposition would cost a pass over memory."""

    def program(function):
        over = jax.vmap(function, in_axes=(None, 0), out_axes=1)
        return str(jax.make_jaxpr(over)(X, jnp.zeros((3, 8, 5))))

    assert "rounded_product" in program(rounded(lambda x, w: x @ w))
    assert "transpose" not in program(rounded(lambda x, w: x @ w))


def looping(params, x):
    """A scan with what it keeps computed anew, a branch and a call."""

    def body(x, _):
        return jnp.tanh(jax.jit(jnp.matmul)(x, params["w"]) @ params["w"].T), None

    x, _ = jax.lax.scan(jax.checkpoint(body), x, None, length=2)
    return jax.lax.cond(x[0, 0] > 0, lambda x: x @ params["w"], lambda x: -x @ params["w"], x)


def unrolled(params, x):
    for _ in range(2):
        x = jnp.tanh(x @ params["w"] @ params["w"].T)
    return jnp.where(x[0, 0] > 0, 1, -1) * (x @ params["w"])


def test_within_loops_branches_and_calls():
    def value_and_grad(function):
        return jax.jit(jax.value_and_grad(lambda w: jnp.sum(rounded(function)(w, X) ** 2)))(PARAMS)

    assert "rounded_product" not in str(jax.make_jaxpr(looping)(PARAMS, X))
    assert "dot_general" not in str(jax.make_jaxpr(rounded(looping))(PARAMS, X))
    assert_equal(value_and_grad(looping), value_and_grad(unrolled))


def test_second_derivatives():
    def cost(params):
        return jnp.mean(rounded(network)(params, X) ** 2)

    exact = jax.hessian(lambda params: jnp.mean(network(params, X) ** 2))(PARAMS)["v"]["v"]
    apart = jax.hessian(cost)(PARAMS)["v"]["v"] - exact
    assert 0 < float(jnp.abs(apart).max()) < 0.05 * float(jnp.abs(exact).max())
    along = jax.jvp(jax.grad(cost), (PARAMS,), ({"w": 0 * W, "v": V},))[1]["v"]
    by_columns = jnp.einsum("ijkl,kl", jax.hessian(cost)(PARAMS)["v"]["v"], V)
    np.testing.assert_allclose(along, by_columns, atol=0.05 * float(jnp.abs(along).max()))


@pytest.mark.parametrize(("platform", "count"), [("cuda", 5), ("tpu", 5), ("cpu", 3)])
def test_what_is_compiled_multiplies_bfloat16_and_adds_float32(platform, count):
    """Of five products, two forward, two of the weights' gradients, one that leads back; XLA's CPU compiler lags."""
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(rounded(network)(params, X) ** 2)))
    program = gradient.trace(PARAMS).lower(lowering_platforms=(platform,)).as_text()
    products = [line.split(":")[-1] for line in program.splitlines() if "dot_general" in line]
    assert len(products) == 5
    assert sum(line.count("bf16>") == 2 and line.rstrip().endswith("xf32>") for line in products) == count


def test_small_matrices_stay_in_float32_on_cpus(monkeypatch):
    monkeypatch.setattr(precision, "LARGE", 2**14)

    def program(width):
        x, w = jnp.zeros((16, width)), jnp.zeros((width, 32))
        return jax.jit(rounded(jnp.matmul)).trace(x, w).lower(lowering_platforms=("cpu",)).as_text()

    assert "bf16" not in program(511)
    assert "bf16" in program(512)


def test_of_a_batch_the_size_of_one_counts(monkeypatch):
    monkeypatch.setattr(precision, "LARGE", 2**14)
    x, w = jnp.zeros((3, 16, 256)), jnp.zeros((3, 256, 32))
    over = jax.jit(jax.vmap(rounded(jnp.matmul)))
    assert "bf16" not in over.trace(x, w).lower(lowering_platforms=("cpu",)).as_text()


def test_a_function_keeps_its_name():
    """By which a run says what it measured."""
    assert rounded(network).__qualname__ == "network"


def test_other_dtypes_round_too():
    expected = X.astype(jnp.float16).astype(jnp.float32) @ W.astype(jnp.float16).astype(jnp.float32)
    assert_equal(with_rounded_products(jnp.matmul, jnp.float16)(X, W), expected)
