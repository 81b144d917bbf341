"""When does a classifier learn, and how fast? A training run saved with Orbax, then one recipe.

    uv run python examples/2_training_curve.py

The recipe, 2_training_curve.toml, names this file's functions; `sltjax run` finds them, samples around every
checkpoint and writes curve, stages and report to digits-run/results.
"""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from orbax import checkpoint as ocp
from sklearn.datasets import load_digits

import sltjax

HERE = Path(__file__).resolve().parent
STEPS = [0, *(round(4000 ** (i / 38)) for i in range(13, 39))]


class Classifier(nnx.Module):
    def __init__(self, hidden: int, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, hidden, rngs=rngs)
        self.out = nnx.Linear(hidden, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))


def data():
    images, labels = load_digits(return_X_y=True)
    return {"x": jnp.asarray(images / 16.0, jnp.float32), "y": jnp.asarray(labels)}


# What the recipe imports: parameters like those saved, a loss and two metrics.
model = Classifier(hidden=16, rngs=nnx.Rngs(0))
params, logits = sltjax.from_nnx(model, lambda model, batch: model(batch["x"]))
loss = sltjax.behavioral_loss(logits, distance=sltjax.kl_divergence)


def training_loss(params, data):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, data), data["y"]).mean()


def accuracy(params, data):
    return (logits(params, data).argmax(axis=1) == data["y"]).mean()


def train_and_save(folder):
    """A run as anybody would write it: NNX, optax, an Orbax CheckpointManager."""
    digits = data()
    optimizer = nnx.Optimizer(model, optax.adam(2e-3), wrt=nnx.Param)

    @nnx.jit
    def update(model, optimizer, key):
        indices = jax.random.randint(key, (64,), 0, len(digits["y"]))
        batch = jax.tree.map(lambda x: x[indices], digits)
        gradient = nnx.grad(lambda m: training_loss(nnx.state(m, nnx.Param), batch))(model)
        optimizer.update(model, gradient)

    with ocp.CheckpointManager(folder) as manager:
        for step in range(STEPS[-1] + 1):
            if step in STEPS:
                manager.save(step, args=ocp.args.StandardSave({"params": nnx.state(model, nnx.Param)}))
            update(model, optimizer, jax.random.key(step))


if __name__ == "__main__":
    checkpoints = HERE / "digits-run" / "checkpoints"
    if not checkpoints.exists():
        train_and_save(checkpoints)
    sys.exit(subprocess.run([sys.executable, "-m", "sltjax", "run", HERE / "2_training_curve.toml"]).returncode)
