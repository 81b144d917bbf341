"""Every diagnostic from one run of chains: a classifier of handwritten digits, the losses on some of them recorded.

    uv run python examples/9_every_diagnostic.py [folder for figures]

Chains are drawn once around the trained network, with ΔL and the loss on every digit recorded at every draw; what
follows are moments of these. WAIC takes chains at another temperature, β = 1, susceptibilities take some for each
component of the network, and the Hessian takes none.
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

NUM_EXAMPLES, COMPARED = 1200, 200
GAMMA, NBETA = 10.0, sltjax.default_nbeta(NUM_EXAMPLES)
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


def draw(params, data, select=None, nbeta=NBETA):
    """Chains on the full data, moving all the weights or a part; the same settings for all."""
    posterior = sltjax.LocalPosterior(loss, params, nbeta, GAMMA, select=select)
    recorded = {
        "delta_loss": observables.delta_loss,
        "distance": observables.distance,
        "losses": observables.losses(loss, data),
    }
    settings = {"num_chains": 4, "num_draws": 500, "burn_in": 800, "thin": 4, "batch_size": NUM_EXAMPLES}
    sampler = sltjax.GHMC(0.02)
    return sltjax.sample(jax.random.key(1), posterior, sampler, data, observables=recorded, **settings)


def main(folder=None):
    data = digits()
    params = train(data)
    trace = draw(params, data)
    at_anchor = float(loss(params, data).mean())

    llc = sltjax.llc(trace, NBETA)
    said("learning coefficient λ̂", llc)
    said("what γ takes from it", sltjax.localisation_bias(trace, NBETA, GAMMA))
    print("health:", "; ".join(llc.health.messages) or "nothing to complain of")

    spectrum = sltjax.hessian_spectrum(jax.random.key(2), loss, params, data)
    said("directions that the Hessian holds, at this nβ and γ", spectrum.effective_count(NBETA, GAMMA))
    checked = sltjax.with_rank_check(llc, spectrum, NBETA, GAMMA)
    print("  half of it is", "no more" if checked.health.messages == llc.health.messages else "more", "than λ̂")

    said("\nWBIC, minus the log evidence in nats", sltjax.wbic(trace, NUM_EXAMPLES, at_anchor))
    said("singular fluctuation ν̂ at this β", sltjax.singular_fluctuation(trace, NBETA / NUM_EXAMPLES))
    said("WAIC, nats a digit, from chains at β = 1", sltjax.waic(draw(params, data, nbeta=NUM_EXAMPLES)), places=4)

    losses, labels = trace["losses"][:, :, :COMPARED], np.asarray(data["y"])[:COMPARED]
    print("\ninfluence: whose losses move together with the first digit's, by correlation")
    near = sltjax.strongest(losses[:, :, :1], losses, k=4)
    for index, value, error in zip(near.index[0], near.value[0], near.std_error[0], strict=True):
        print(f"  digit {index}, a {labels[index]}: {value:+.2f} ± {error:.2f}")
    influence = sltjax.bayesian_influence(losses)
    change = -NBETA / NUM_EXAMPLES * np.diag(influence.value)
    worst = int(change.argmax())
    error = NBETA / NUM_EXAMPLES * influence.std_error[worst, worst]
    print(f"  without digit {worst} in the data its own loss would rise by {change[worst]:.3f} ± {error:.3f}, the most")

    kernel = sltjax.loss_kernel(losses)
    alike = labels[:, None] == labels
    same = kernel.value[alike & ~np.eye(COMPARED, dtype=bool)].mean()
    other = kernel.value[~alike].mean()
    print(f"\nloss kernel: mean correlation {same:+.3f} between digits of one kind, {other:+.3f} of two")
    points = sltjax.kernel_pca(kernel)
    print(f"  two principal components hold {points.explained.sum():.0%}")

    traces = {name: draw(params, data, select) for name, select in LAYERS.items()}
    every = np.asarray(data["y"])
    kinds = np.stack([(every == k) / np.sum(every == k) for k in range(10)])
    found = sltjax.susceptibilities(traces, groups=kinds)
    print("\nsusceptibility of each layer to each digit, in units of 1e-4")
    for name, value, error in zip(found.components, found.value, found.std_error, strict=True):
        print(f"  {name:6}", "  ".join(f"{1e4 * v:+.1f} ± {1e4 * e:.1f}" for v, e in zip(value, error, strict=True)))

    parts = {name: sltjax.llc(each, NBETA) for name, each in traces.items()}
    for name, estimate in parts.items():
        said(f"λ̂ of the layer {name!r} alone", estimate)
    shared = sltjax.coefficient_interactions(parts, {("hidden", "out"): llc})
    print(f"what the two lack together, λ(A∪B) − λ(A) − λ(B): {shared.value[0, 1]:.2f} ± {shared.std_error[0, 1]:.2f}")

    if folder is not None:
        from sltjax import plots

        to = Path(folder)
        to.mkdir(parents=True, exist_ok=True)
        plots.matrix(kernel, labels).savefig(to / "kernel.png", dpi=150)
        plots.embedding(points, labels).savefig(to / "embedding.png", dpi=150)
        each = sltjax.susceptibilities(traces)
        plots.susceptibilities(each).savefig(to / "susceptibilities.png", dpi=150)
        plots.susceptibilities(each, sltjax.structure(each)).savefig(to / "structure.png", dpi=150)


def said(name, estimate, places=2):
    print(f"{name}: {estimate.value:.{places}f} ± {estimate.std_error:.{places}f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
