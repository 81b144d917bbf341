"""What the recipe imports: a network with one hidden layer, its data and its losses."""

import jax
import jax.numpy as jnp

import sltjax


def data():
    noise, x = jax.random.normal(jax.random.key(1), (500, 2)), jax.random.normal(jax.random.key(2), (500, 6))
    y = jnp.stack([jnp.tanh(x[:, 0] * x[:, 1]), jnp.sin(x[:, 2])], axis=1) + 0.1 * noise
    return {"x": x, "y": y}


def init(key):
    first, second = jax.random.split(key)
    return {
        "hidden": {"kernel": 0.3 * jax.random.normal(first, (6, 8)), "bias": jnp.zeros(8)},
        "out": {"kernel": 0.3 * jax.random.normal(second, (8, 2)), "bias": jnp.zeros(2)},
    }


def apply(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["out"]["kernel"] + params["out"]["bias"]


loss = sltjax.behavioral_loss(apply)


def training_loss(params, data):
    return jnp.mean((apply(params, data) - data["y"]) ** 2)
