"""λ̂ beside the loss while a Flax NNX network trains: three lines in the loop.

    uv run python examples/10_nnx_training.py

What is found is printed, written to TensorBoard where tensorboardX is installed, and kept in digits-monitor/results, so
that `sltjax report digits-monitor/results` works while the training goes on. A training that is stopped and started
again goes on there.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

import sltjax

HERE = Path(__file__).resolve().parent
NUM_STEPS = 4000


class Classifier(nnx.Module):
    def __init__(self, hidden: int, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, hidden, rngs=rngs)
        self.out = nnx.Linear(hidden, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))


def tensorboard(folder):
    """A writer, if there is one; wandb.init(...) would do as well."""
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError:
        return None
    return SummaryWriter(str(folder))


def main():
    images, labels = load_digits(return_X_y=True)
    data = {"x": jnp.asarray(images / 16.0, jnp.float32), "y": jnp.asarray(labels)}
    model = Classifier(hidden=8, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(2e-3), wrt=nnx.Param)

    @nnx.jit
    def update(model, optimizer, key):
        indices = jax.random.randint(key, (64,), 0, len(data["y"]))
        batch = jax.tree.map(lambda x: x[indices], data)

        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(batch["x"]), batch["y"]).mean()

        value, gradient = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradient)
        return value

    _, logits = sltjax.from_nnx(model, lambda model, batch: model(batch["x"]))
    monitor = sltjax.Monitor(
        sltjax.behavioral_loss(logits, distance=sltjax.kl_divergence),
        data,
        at=sltjax.monitoring.log_spaced(NUM_STEPS - 1, 12),
        settings={"num_chains": 4, "num_draws": 150, "thin": 2},
        budget=None,  # a training of seconds; one of hours leaves it at 5 %, which is where the intervals stretch
        store=HERE / "digits-monitor" / "results",
        writer=tensorboard(HERE / "digits-monitor" / "tensorboard"),
        title="Handwritten digits",
    )
    with monitor:
        for step in range(NUM_STEPS):
            value = update(model, optimizer, jax.random.key(step))
            if found := monitor(step, nnx.state(model, nnx.Param)):
                estimate = f"{found['llc']:6.1f} ± {found['llc_std_error']:.1f}"
                print(
                    f"step {step:5d}   loss {value:.3f}   λ̂ = {estimate}   {'' if found['ok'] else '(with a warning)'}"
                )
        print(monitor.stages()[["from_step", "to_step", "onset", "end", "delta_llc"]].to_string(index=False))
    account = monitor.budget
    print(
        f"{account.wall:.0f} seconds, of which the monitor took {account.spent:.0f}, {account.first:.0f} of them to "
        f"calibrate and compile; {account.measured} measurements, {account.skipped} left out to keep its budget"
    )


if __name__ == "__main__":
    main()
