"""Every diagnostic from one run of chains: a classifier of handwritten digits, the losses on some of them recorded.

    uv run python examples/9_every_diagnostic.py [folder for figures]

Chains are drawn once around the trained network, with ΔL and the losses on 200 digits recorded at every draw; what
follows are moments of these. Only susceptibilities take chains of their own, one run for each component of the network.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import sltjax
from sltjax import observables

NUM_EXAMPLES, RECORDED = 1200, 200
LAYERS = {"hidden": sltjax.part("hidden/.*"), "out": sltjax.part("out/.*")}


def digits():
    images, labels = load_digits(return_X_y=True)
    x = jnp.asarray(images.reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, 16) / 16, jnp.float32)
    return {"x": x[:NUM_EXAMPLES], "y": jnp.asarray(labels)[:NUM_EXAMPLES]}


def logits(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["out"]["kernel"] + params["out"]["bias"]


def loss(params, batch):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, batch), batch["y"])


def train(data):
    keys = jax.random.split(jax.random.key(0))
    params = {
        "hidden": {"kernel": jax.random.normal(keys[0], (16, 8)) / 4, "bias": jnp.zeros(8)},
        "out": {"kernel": jax.random.normal(keys[1], (8, 10)) / 3, "bias": jnp.zeros(10)},
    }
    optimizer = optax.adam(1e-2)

    def update(carry, _):
        params, state = carry
        gradient = jax.grad(lambda w: loss(w, data).mean())(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(update, (params, optimizer.init(params)), None, length=1000)[0][0]


def draw(params, data, some, select=None):
    """Chains on the full data, moving all the weights or a part; the same settings for all."""
    nbeta = sltjax.default_nbeta(NUM_EXAMPLES)
    posterior = sltjax.LocalPosterior(loss, params, nbeta, 10.0, select=select)
    recorded = {
        "delta_loss": observables.delta_loss,
        "distance": observables.distance,
        "losses": observables.losses(loss, some),
    }
    settings = {"num_chains": 4, "num_draws": 500, "burn_in": 800, "thin": 4, "batch_size": NUM_EXAMPLES}
    sampler = sltjax.GHMC(0.02)
    return sltjax.sample(jax.random.key(1), posterior, sampler, data, observables=recorded, **settings), nbeta


def main(folder=None):
    data = digits()
    params = train(data)
    some = jax.tree.map(lambda x: x[:RECORDED], data)
    labels = np.asarray(some["y"])
    trace, nbeta = draw(params, data, some)

    llc = sltjax.llc(trace, nbeta)
    said("learning coefficient λ̂", llc)
    said("what γ takes from it", sltjax.localisation_bias(trace, nbeta, 10.0))
    print("health:", "; ".join(llc.health.messages) or "nothing to complain of")

    print("\ninfluence: whose losses move together with the first digit's, by correlation")
    near = sltjax.strongest(trace["losses"][:, :, :1], trace["losses"], k=4)
    for index, value, error in zip(near.index[0], near.value[0], near.std_error[0], strict=True):
        print(f"  digit {index}, a {labels[index]}: {value:+.2f} ± {error:.2f}")
    influence = sltjax.bayesian_influence(trace["losses"])
    change = -nbeta / NUM_EXAMPLES * np.diag(influence.value)
    worst = int(change.argmax())
    error = nbeta / NUM_EXAMPLES * influence.std_error[worst, worst]
    print(f"  without digit {worst} in the data its own loss would rise by {change[worst]:.3f} ± {error:.3f}, the most")

    kernel = sltjax.loss_kernel(trace["losses"])
    alike = labels[:, None] == labels
    same = kernel.value[alike & ~np.eye(RECORDED, dtype=bool)].mean()
    other = kernel.value[~alike].mean()
    print(f"\nloss kernel: mean correlation {same:+.3f} between digits of one kind, {other:+.3f} of two")
    points = sltjax.kernel_pca(kernel)
    print(f"  two principal components hold {points.explained.sum():.0%}")

    traces = {name: draw(params, data, some, select)[0] for name, select in LAYERS.items()}
    kinds = np.stack([(labels == k) / np.sum(labels == k) for k in range(10)])
    found = sltjax.susceptibilities(traces, groups=kinds)
    print("\nsusceptibility of each layer to each digit, in units of 1e-4")
    for name, value, error in zip(found.components, found.value, found.std_error, strict=True):
        print(f"  {name:6}", "  ".join(f"{1e4 * v:+.1f} ± {1e4 * e:.1f}" for v, e in zip(value, error, strict=True)))

    parts = {name: sltjax.llc(each, nbeta) for name, each in traces.items()}
    for name, estimate in parts.items():
        said(f"λ̂ of the layer {name!r} alone", estimate)
    shared = sltjax.coefficient_interactions(parts, {("hidden", "out"): llc})
    print(f"what the two lack together, λ(A∪B) − λ(A) − λ(B): {shared.value[0, 1]:.2f} ± {shared.std_error[0, 1]:.2f}")

    if folder is not None:
        from sltjax import plots

        to = Path(folder)
        plots.matrix(kernel, labels).savefig(to / "kernel.png", dpi=150)
        plots.embedding(points, labels).savefig(to / "embedding.png", dpi=150)
        each = sltjax.susceptibilities(traces)
        plots.susceptibilities(each).savefig(to / "susceptibilities.png", dpi=150)
        plots.susceptibilities(each, sltjax.structure(each)).savefig(to / "structure.png", dpi=150)


def said(name, estimate):
    print(f"{name}: {estimate.value:.2f} ± {estimate.std_error:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
