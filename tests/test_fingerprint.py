"""Fingerprints: what is computed counts, not who computes it, where it was written, or in which process.

Run as a script, this file prints the fingerprint of every loss below.
"""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sltjax import LocalPosterior, behavioral_loss, fingerprint

PARAMS = {"w": np.ones(3, np.float32)}
DATA = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)


def plain(array):
    return lambda params, batch: (batch @ params["w"]) * array[1] + array.sum()


def in_jit(array):
    @jax.jit
    def inner(x):
        return x[:, None] * array

    return lambda params, batch: inner(batch @ params["w"]).sum(1)


def in_jit_in_jit(array):
    inner = in_jit(array)
    return jax.jit(lambda params, batch: jax.jit(inner)(params, batch) + 1)


def in_scan(array):
    def add(carry, x):
        return carry + jnp.sin(array[1] * x), None

    return lambda params, batch: jax.lax.scan(add, batch @ params["w"], jnp.arange(3.0))[0]


def in_cond(array):
    def dear(x):
        return (x[:, None] * array).sum(1)

    return lambda params, batch: jax.lax.cond(params["w"][0] > 0, dear, lambda x: x, batch @ params["w"])


def in_custom_jvp(array):
    @jax.custom_jvp
    def scaled(x):
        return (x[:, None] * array).sum(1)

    scaled.defjvp(lambda primals, tangents: (scaled(*primals), tangents[0]))
    return lambda params, batch: scaled(batch @ params["w"])


def in_checkpoint(array):
    return lambda params, batch: jax.checkpoint(lambda x: (x[:, None] * array).sum(1))(batch @ params["w"])


def with_relu(array):
    return lambda params, batch: (jax.nn.relu(batch @ params["w"])[:, None] * array).sum(1)


def with_gelu(array):
    return lambda params, batch: (jax.nn.gelu(batch * array) @ params["w"]) + jax.nn.silu(batch[:, 0])


MAKERS = [plain, in_jit, in_jit_in_jit, in_scan, in_cond, in_custom_jvp, in_checkpoint, with_relu, with_gelu]


def of_loss(loss, params=PARAMS, data=DATA):
    return fingerprint.of_loss(LocalPosterior(loss, params, 1.0, 1.0), data)["fingerprint"]


def of_all(kind):
    """Name -> fingerprint of every loss around an array."""
    return {make.__name__: of_loss(make(kind([1.0, 2.0, 3.0]))) for make in MAKERS}


@pytest.mark.parametrize("kind", [jnp.asarray, lambda x: np.asarray(x, np.float32)], ids=["jax", "numpy"])
@pytest.mark.parametrize("make", MAKERS)
def test_a_captured_array_counts_by_its_values(make, kind):
    same = of_loss(make(kind([1.0, 2.0, 3.0])))
    assert same == of_loss(make(kind([1.0, 2.0, 3.0])))
    assert same != of_loss(make(kind([1.0, 2.5, 3.0])))


def test_every_loss_has_its_own():
    found = of_all(jnp.asarray)
    assert len(set(found.values())) == len(MAKERS)


def test_processes_agree():
    other = subprocess.run([sys.executable, __file__], stdout=subprocess.PIPE, check=True)
    assert json.loads(other.stdout) == {"jax": of_all(jnp.asarray), "numpy": of_all(np.float32)}


def test_the_same_formula_written_twice():
    def one(params, batch):
        # a comment
        return (batch @ params["w"]) ** 2

    def another(weights, examples):
        projected = examples @ weights["w"]
        return projected**2

    def third(params, batch):
        return (batch @ params["w"]) ** 4

    assert of_loss(one) == of_loss(another) != of_loss(third)


def test_data_may_be_jax_or_numpy():
    loss = plain(np.float32([1, 2, 3]))
    assert of_loss(loss, data=jnp.asarray(DATA)) == of_loss(loss)
    tree = {"x": jnp.asarray(DATA), "y": np.arange(64)}
    assert len(of_loss(lambda p, b: b["x"] @ p["w"] - b["y"], data=tree)) == 16


def test_shapes_and_dtypes_count():
    def loss(params, batch):
        return jnp.sum(batch, axis=1) * params["w"].sum()

    assert of_loss(loss) != of_loss(loss, params={"w": np.ones(4, np.float32)})
    assert of_loss(loss) != of_loss(loss, data=DATA.astype(np.int32))


def test_a_behavioral_loss_is_the_same_at_every_checkpoint():
    def apply(params, batch):
        return batch * params["w"]

    other = {"w": np.float32([3, 2, 1])}
    assert of_loss(behavioral_loss(apply)) == of_loss(behavioral_loss(apply), params=other)
    assert of_loss(behavioral_loss(apply, PARAMS)) != of_loss(behavioral_loss(apply, other))
    assert of_loss(behavioral_loss(apply)) != of_loss(behavioral_loss(lambda p, b: b * p["w"] ** 2))


def test_names():
    posterior = LocalPosterior(behavioral_loss(in_named), PARAMS, 1.0, 1.0)
    assert fingerprint.of_loss(posterior, DATA)["name"] == "behavioral loss of in_named"
    assert fingerprint.of_loss(posterior.replace(loss=in_named), DATA)["name"] == "in_named"


def in_named(params, batch):
    return batch @ params["w"]


def test_keys_old_and_new():
    assert fingerprint.of_key(jax.random.key(3)) == fingerprint.of_key(jax.random.PRNGKey(3)) == [0, 3]
    assert fingerprint.of_key(jax.random.key(4)) == [0, 4]


def test_versions_name_what_the_numbers_depend_on():
    found = fingerprint.versions()
    assert found["jax"] == jax.__version__
    assert found["numpy"] == np.__version__
    assert {"sltjax", "jaxlib", "python", "device"} <= set(found)


if __name__ == "__main__":
    print(json.dumps({"jax": of_all(jnp.asarray), "numpy": of_all(np.float32)}))
