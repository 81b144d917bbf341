"""The same for Flax Linen: a TrainState with batch statistics, and checkpoints that are dense where λ̂ moves.

    uv run python examples/11_linen_trainstate.py

Batch statistics change in training and are no weights: they go along with the parameters, and `select` names what
chains move. Orbax saves by a policy that asks the monitor.
"""

import tempfile

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training.train_state import TrainState
from orbax import checkpoint as ocp
from sklearn.datasets import load_digits

import sltjax

NUM_STEPS = 800


class Classifier(nn.Module):
    @nn.compact
    def __call__(self, x, training: bool):
        x = nn.Dense(8)(x)
        x = nn.BatchNorm(use_running_average=not training, momentum=0.9)(x)
        return nn.Dense(10)(nn.tanh(x))


class State(TrainState):
    batch_stats: dict


def main():
    images, labels = load_digits(return_X_y=True)
    data = {"x": jnp.asarray(images / 16.0, jnp.float32), "y": jnp.asarray(labels)}
    model = Classifier()
    variables = model.init(jax.random.key(0), data["x"][:1], training=False)
    state = State.create(apply_fn=model.apply, tx=optax.adam(2e-3), **variables)

    @jax.jit
    def update(state, key):
        indices = jax.random.randint(key, (64,), 0, len(data["y"]))
        batch = jax.tree.map(lambda x: x[indices], data)

        def loss(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, changed = state.apply_fn(variables, batch["x"], training=True, mutable=["batch_stats"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
            return losses.mean(), changed["batch_stats"]

        gradient, batch_stats = jax.grad(loss, has_aux=True)(state.params)
        return state.apply_gradients(grads=gradient, batch_stats=batch_stats)

    def logits(variables, batch):
        return model.apply(variables, batch["x"], training=False)

    def training_loss(variables, data):
        return optax.softmax_cross_entropy_with_integer_labels(logits(variables, data), data["y"]).mean()

    monitor = sltjax.Monitor(
        sltjax.behavioral_loss(logits, distance=sltjax.kl_divergence),
        data,
        every=100,
        settings={"num_chains": 4, "num_draws": 100, "thin": 2, "select": lambda variables: variables["params"]},
        metrics={"loss": training_loss},
        budget=None,
    )
    policy = monitor.saves(longest=300, shortest=100, change=0.1)
    options = ocp.CheckpointManagerOptions(save_decision_policy=policy)
    with monitor, tempfile.TemporaryDirectory() as folder, ocp.CheckpointManager(folder, options=options) as manager:
        for step in range(NUM_STEPS + 1):
            state = update(state, jax.random.key(step))
            variables = {"params": state.params, "batch_stats": state.batch_stats}
            found = monitor(step, variables)
            saved = manager.save(step, args=ocp.args.StandardSave(variables))
            if found:
                estimate = f"{found['llc']:6.1f} ± {found['llc_std_error']:.1f}"
                kept = "   checkpoint saved" if saved else ""
                print(f"step {step:4d}   loss {found['loss']:.3f}   λ̂ = {estimate}{kept}")
        print("checkpoints kept:", *manager.all_steps())


if __name__ == "__main__":
    main()
