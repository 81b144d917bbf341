"""The demo: a training run whose learning coefficient is known at every plateau, from training to report.

A linear network 10-4-10 starts close to zero and learns a target of rank 4 one singular value at a time (Jacot
et al., arXiv 2106.15933). Between transitions its product has rank 0, 1, …, 4, and Aoyagi (2024) gives λ there
exactly: 18, 22, 25.5, 29, 32.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from flax import struct
from jaxtyping import Array

from sltjax.checkpoints import from_orbax
from sltjax.losses import behavioral_loss
from sltjax.posterior import default_nbeta
from sltjax.sweeps import sweep
from sltjax.truth import Truth, deep_linear, deep_linear_apply, deep_linear_llc
from sltjax.types import Batch, Params

WIDTHS = (10, 4, 10)
SINGULAR_VALUES = (8.0, 4.0, 2.0, 1.0)
NUM_EXAMPLES = 20_000
LABEL_NOISE = 0.5
INITIAL_SCALE = 1e-3
LEARNING_RATE = 2e-3
BATCH_SIZE = 256


@struct.dataclass
class Size:
    """How much of it: checkpoints, steps between them, chains and draws."""

    num_checkpoints: int
    every: int
    num_chains: int
    num_draws: int


FULL = Size(num_checkpoints=96, every=50, num_chains=4, num_draws=2000)
QUICK = Size(num_checkpoints=32, every=150, num_chains=2, num_draws=500)


def problem(seed: int = 0) -> Truth:
    """The target: rank 4, inputs N(0, 1), labels with noise."""
    return deep_linear(
        jax.random.key(seed),
        WIDTHS,
        len(SINGULAR_VALUES),
        num_examples=NUM_EXAMPLES,
        noise=LABEL_NOISE,
        singular_values=SINGULAR_VALUES,
    )


def train(truth: Truth, size: Size, seed: int = 1) -> Iterator[tuple[int, Params]]:
    """Stochastic gradient descent from a small initialisation: (step, params), evenly spaced from step 0."""
    key = jax.random.key(seed)
    shapes = pairwise(WIDTHS)
    params = [INITIAL_SCALE * jax.random.normal(jax.random.fold_in(key, i), s) for i, s in enumerate(shapes)]
    optimizer = optax.sgd(LEARNING_RATE)

    def update(params: Params, key: Array) -> tuple[Params, None]:
        indices = jax.random.randint(key, (BATCH_SIZE,), 0, NUM_EXAMPLES)
        batch = jax.tree.map(lambda x: x[indices], truth.data)
        gradient = jax.grad(lambda w: jnp.mean(truth.loss(w, batch)))(params)
        updates, _ = optimizer.update(gradient, optimizer.init(params))
        return optax.apply_updates(params, updates), None

    advance = jax.jit(lambda params, key: jax.lax.scan(update, params, jax.random.split(key, size.every))[0])
    for index in range(size.num_checkpoints):
        yield index * size.every, params
        params = advance(params, jax.random.fold_in(key, 10 + index))


def save(run: Iterator[tuple[int, Params]], folder: Path) -> None:
    """Write a training run as Orbax checkpoints, as a user's own script would; steps that are there are kept."""
    from orbax import checkpoint as ocp

    with ocp.CheckpointManager(folder.resolve()) as manager:
        saved = set(manager.all_steps())
        for step, params in run:
            if step not in saved:
                layers = {f"layer_{i}": np.asarray(w) for i, w in enumerate(params)}
                manager.save(step, args=ocp.args.StandardSave({"params": layers}))


def apply(params: Params, data: Batch) -> Array:
    """The network's outputs."""
    return deep_linear_apply([params[name] for name in sorted(params)], data["x"])


def training_loss(params: Params, data: Batch) -> Array:
    """The mean loss that training descends."""
    return jnp.mean(0.5 * jnp.sum(jnp.square(apply(params, data) - data["y"]), axis=1))


def singular_values(params: Params, data: Batch) -> Array:
    """The singular values of the product of all layers, one a mode of the target."""
    product = jnp.linalg.multi_dot([params[name] for name in sorted(params)])
    return jnp.linalg.svd(product, compute_uv=False)[: len(SINGULAR_VALUES)]


def exact_llc(params: Params, data: Batch) -> Array:
    """λ at the rank that the posterior resolves.

    A mode of singular value s costs ½s² to leave out. It counts once that is more than two units of nβ·L,
    s > 2 / √nβ: below, the chains walk over it as if it were zero.
    """
    threshold = 2 / np.sqrt(default_nbeta(NUM_EXAMPLES))
    rank = jnp.sum(singular_values(params, data) > threshold)
    return jnp.asarray([float(deep_linear_llc(WIDTHS, r)[0]) for r in range(len(SINGULAR_VALUES) + 1)])[rank]


def run_demo(folder: Path, size: Size = FULL, progress: bool = True) -> xr.Dataset:
    """Train, checkpoint, sweep: everything but stages and report, which need no knowledge of the demo.

    Args:
        folder: where checkpoints and results go.
        size: `FULL` or `QUICK`.
        progress: whether to show the progress bar.

    Returns:
        The Dataset, with the metrics `loss`, `singular_values` and `exact_llc`.
    """
    truth = problem()
    save(train(truth, size), folder / "checkpoints")
    return sweep(
        jax.random.key(2),
        behavioral_loss(apply),
        from_orbax(folder / "checkpoints"),
        truth.data,
        store=folder / "results",
        num_chains=size.num_chains,
        num_draws=size.num_draws,
        thin=2,
        batch_size=512,
        metrics={"loss": training_loss, "singular_values": singular_values, "exact_llc": exact_llc},
        title="Saddle to saddle: a linear network 10-4-10 learns a target of rank 4",
        progress=progress,
    )


def plateaus(dataset: xr.Dataset, margin: int = 1) -> list[tuple[float, float, float]]:
    """(exact λ, mean λ̂, its standard error) of every plateau, `margin` checkpoints from its ends left out."""
    exact = dataset["exact_llc"].to_numpy()
    rows = []
    for level in np.unique(exact[np.isfinite(exact)]):
        (members,) = np.nonzero(exact == level)
        inside = members[margin:-margin] if len(members) > 2 * margin else members
        value = float(np.nanmean(dataset["llc"].to_numpy()[inside]))
        error = float(np.sqrt(np.nansum(dataset["llc_std_error"].to_numpy()[inside] ** 2)) / len(inside))
        rows.append((float(level), value, error))
    return rows
