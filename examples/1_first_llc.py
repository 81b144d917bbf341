"""The learning coefficient of a classifier on real data: handwritten digits, a Flax NNX network, one call.

    uv run python examples/1_first_llc.py

Trains a small network on scikit-learn's digits until it fits them, then asks how many of its parameters it uses.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

import sltjax


class Classifier(nnx.Module):
    def __init__(self, hidden: int, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, hidden, rngs=rngs)
        self.out = nnx.Linear(hidden, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))


def digits():
    images, labels = load_digits(return_X_y=True)
    return {"x": jnp.asarray(images / 16.0, jnp.float32), "y": jnp.asarray(labels)}


def losses(model, batch):
    """One cross-entropy an example: sltjax takes no means."""
    return optax.softmax_cross_entropy_with_integer_labels(model(batch["x"]), batch["y"])


def train(model, data, steps=3000):
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)

    @nnx.jit
    def update(model, optimizer, key):
        indices = jax.random.randint(key, (256,), 0, len(data["y"]))
        batch = jax.tree.map(lambda x: x[indices], data)
        loss, gradient = nnx.value_and_grad(lambda m: losses(m, batch).mean())(model)
        optimizer.update(model, gradient)
        return loss

    for step in range(steps):
        loss = update(model, optimizer, jax.random.key(step))
    return float(loss)


def main():
    data = digits()
    model = Classifier(hidden=16, rngs=nnx.Rngs(0))
    print(f"training loss {train(model, data):.4f}")

    params, loss = sltjax.from_nnx(model, losses)
    estimate = sltjax.estimate_llc(jax.random.key(0), loss, params, data)

    size = sum(w.size for w in jax.tree.leaves(params))
    print(f"λ̂ = {estimate.value:.1f} ± {estimate.std_error:.1f}")
    print(f"effective parameters 2λ̂ = {2 * estimate.value:.0f} of {size}")
    print("health:", "; ".join(estimate.health.messages) or "nothing to complain of")

    hidden = sltjax.estimate_llc(jax.random.key(1), loss, params, data, select=lambda p: p["hidden"])
    print(f"of the hidden layer alone: λ̂ = {hidden.value:.1f} ± {hidden.std_error:.1f}")


if __name__ == "__main__":
    main()
