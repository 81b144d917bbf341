"""Grokking: a network memorises modular addition, and long afterwards learns the rule. λ̂ tells the one from the other.

    uv run python examples/5_grokking.py            # about five minutes on two cores
    uv run python examples/5_grokking.py --quick    # under a minute: fewer checkpoints, shorter chains

A network is trained on 45 % of the table of a + b mod 43, with weight decay. Training accuracy comes to 100 % within
some hundred steps, test accuracy only after more than a thousand. Published is this order of events: λ̂ rises while the
network memorises, and falls while test accuracy rises, with nothing to see in the training accuracy. Here λ̂ does that,
and falls early: half of the fall has happened where test accuracy is still near 20 %.

The same network without weight decay memorises and never generalises; at equal training loss its λ̂ is 1.6 to 3.4
times as high, though loss and data, and so the landscape, are the same. A third is taught the table with
30 wrong labels: λ̂ on these ends at 9.8, and on 30 that follow the rule at 7.4.

λ̂ is measured with the training loss, as published. Of that a checkpoint is no minimum before it has memorised, so the
full setting measures it with the behavioural loss too: how far predictions move from those of the checkpoint, which is
its minimum at every step.

γ = 10, not the default of 1: |w|² is about 2,000 here, and at γ = 1 the 4,804 weights wander off by more than
that (|w − w*|² ≈ d/γ), so that λ̂ would be about no checkpoint. Heights depend on γ, and so does
where exactly the peak lies.

Everything is written to grokking-run; called again, it goes on where it was.
"""

import argparse
import sys
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure
from orbax import checkpoint as ocp

import sltjax
from sltjax import plots
from sltjax.development import milestones, smooth
from sltjax.report import write_report

MODULUS = 43
NUM_TRAIN = round(0.45 * MODULUS**2)
NUM_EXCEPTIONS = 30
HERE = Path(__file__).resolve().parent
GAMMA = 10.0
LAST = 4000


class Adder(nnx.Module):
    """An embedding of each summand, one hidden layer, one logit a residue."""

    def __init__(self, rngs: nnx.Rngs, embed: int = 12, hidden: int = 64):
        self.embed = nnx.Embed(MODULUS, embed, embedding_init=nnx.initializers.normal(1.0), rngs=rngs)
        self.left = nnx.Linear(embed, hidden, use_bias=False, rngs=rngs)
        self.right = nnx.Linear(embed, hidden, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(hidden, MODULUS, use_bias=False, rngs=rngs)

    def __call__(self, pairs):
        return self.out(nnx.gelu(self.left(self.embed(pairs[:, 0])) + self.right(self.embed(pairs[:, 1]))))


def table(seed):
    """The table of a + b in random order: what is trained on, and the rest."""
    pairs = np.stack(np.divmod(np.random.default_rng(seed).permutation(MODULUS**2), MODULUS), axis=1)
    whole = {"x": jnp.asarray(pairs), "y": jnp.asarray(pairs.sum(axis=1) % MODULUS)}
    return jax.tree.map(lambda a: a[:NUM_TRAIN], whole), jax.tree.map(lambda a: a[NUM_TRAIN:], whole)


def with_exceptions(data, seed):
    """The first 30 labels are wrong."""
    wrong = np.random.default_rng(seed).integers(1, MODULUS, NUM_EXCEPTIONS)
    return {**data, "y": data["y"].at[:NUM_EXCEPTIONS].add(wrong) % MODULUS}


params, logits = sltjax.from_nnx(Adder(nnx.Rngs(0)), lambda model, batch: model(batch["x"]))
behavior = sltjax.behavioral_loss(logits, distance=sltjax.kl_divergence)


def cross_entropy(params, batch):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, batch), batch["y"])


def mean_cross_entropy(params, data):
    return cross_entropy(params, data).mean()


def train_and_save(folder, data, steps, weight_decay=1.0):
    """Full batches, AdamW, Orbax: some seconds, so that what was cut short begins anew."""
    weights, optimizer = params, optax.adamw(5e-3, b2=0.98, weight_decay=weight_decay)
    state = optimizer.init(weights)

    @jax.jit
    def advance(weights, state, count):
        def update(_, now):
            weights, state = now
            gradient = jax.grad(mean_cross_entropy)(weights, data)
            updates, state = optimizer.update(gradient, state, weights)
            return optax.apply_updates(weights, updates), state

        return jax.lax.fori_loop(0, count, update, (weights, state))

    with ocp.CheckpointManager(folder) as manager:
        saved = set(manager.all_steps())
        for before, step in pairwise([0, *steps]) if saved != set(steps) else ():
            weights, state = advance(weights, state, step - before)
            if step not in saved:
                manager.save(step, args=ocp.args.StandardSave({"params": weights}))


def measure(name, run, loss, data, test, numerics, steps=None):
    """λ̂ at the checkpoints of a run, or at some of them, with figure and report."""

    def accuracy_on(data):
        return lambda params, _: (logits(params, data).argmax(axis=1) == data["y"]).mean()

    checkpoints = sltjax.checkpoints.from_orbax(run / "checkpoints", like=params)
    if steps is not None:
        checkpoints = sltjax.checkpoints.from_memory({step: checkpoints.load(step) for step in steps})
    print(f"\n{run.name}: {name}", flush=True)
    dataset = sltjax.sweep(
        jax.random.key(1),
        loss,
        checkpoints,
        data,
        store=run / name,
        gamma=GAMMA,
        metrics={
            "loss": mean_cross_entropy,
            "train_accuracy": accuracy_on(data),
            "test_accuracy": accuracy_on(test),
        },
        title=f"a + b mod {MODULUS}: {run.name}, {name.replace('-', ' ')}",
        progress=True,
        **numerics,
    ).load()
    found = sltjax.stages(dataset)
    plots.development(dataset, found).savefig(run / name / "development.png", dpi=150)
    print("report ", write_report(dataset, found, run / name / "report.html"))
    return dataset


def first_at(dataset, metric, least=0.99):
    """The first checkpoint at which a metric has come to that; None if none has."""
    reached = dataset["step"].to_numpy()[dataset[metric].to_numpy() >= least]
    return int(reached[0]) if len(reached) else None


def order_of_events(dataset):
    """Print what happens when, by λ̂ of one loss; return whether it is the published order."""
    memorised, generalised = first_at(dataset, "train_accuracy"), first_at(dataset, "test_accuracy")
    found = milestones(smooth(dataset))
    peaks = found[found["kind"] == "maximum"].nlargest(1, "value")
    if memorised is None or generalised is None or peaks.empty:
        print("  an accuracy stays below 99 %, or λ̂ has no peak")
        return False
    peak = peaks.iloc[0]
    last, error = float(dataset["llc"][-1]), float(dataset["llc_std_error"][-1])
    print(f"  training accuracy comes to 99 % at step {memorised}, test accuracy at step {generalised}")
    print(f"  λ̂ is highest, {peak['value']:.0f} ± {peak['sd']:.0f}, at step {at(peak, 'step')}")
    after = dataset.isel(checkpoint=dataset["step"].to_numpy() >= peak["step"])
    halfway = after.isel(checkpoint=np.abs(after["llc"].to_numpy() - (peak["value"] + last) / 2).argmin())
    step, accuracy = int(halfway["step"]), float(halfway["test_accuracy"])
    print(f"  half of its fall is over near step {step}, at a test accuracy of {accuracy:.0%}")
    stages = sltjax.stages(dataset)
    if stages.empty:
        print("  sltjax.stages finds none: levels with ramps between take more checkpoints, or an end that rests")
    for _, fall in stages[stages["delta_llc"] < 0].iterrows():
        change = f"{-fall['delta_llc']:.0f} ± {fall['delta_llc_std_error']:.0f}"
        print(f"  it falls by {change} from step {at(fall, 'onset')} to step {at(fall, 'end')}")
    print(f"  it is {last:.0f} ± {error:.0f} at the last")
    return memorised < generalised and peak["step"] < generalised and last < 0.6 * peak["value"]


def at(row, name):
    """A step with its interval."""
    return f"{row[name]:.0f} ({row[name + '_low']:.0f} to {row[name + '_high']:.0f})"


def ends(dataset):
    """λ̂ and its error at the first and the last checkpoint."""
    return dataset["llc"][[0, -1]], dataset["llc_std_error"][[0, -1]]


def at_equal_loss(dataset, losses):
    """λ̂ at given training losses, read off the curve after the last checkpoint above each."""
    loss, llc = np.log(dataset["loss"].to_numpy() + 1e-12), dataset["llc"].to_numpy()
    return np.interp(np.log(losses), loss[::-1], llc[::-1], left=np.nan, right=np.nan)


def figure(decay, no_decay, behavioral, parts):
    """λ̂ and accuracy over training, λ̂ against the training loss, and λ̂ on parts of the data."""
    drawn = Figure(figsize=(10, 6.4), layout="constrained")
    (over, against), (accuracy, of_parts) = drawn.subplots(2, 2)

    def curve(ax, x, dataset, label, color, marker):
        ax.errorbar(x, dataset["llc"], dataset["llc_std_error"], label=label, color=color, marker=marker, ms=4, lw=1.2)

    curve(over, decay["step"], decay, "of the training loss", "#0072B2", "o")
    if behavioral is not None:
        curve(over, behavioral["step"], behavioral, "of the behavioural loss", "#D55E00", "s")
    over.set_title("while the network groks", loc="left", fontsize=10)

    accuracy.plot(decay["step"], decay["train_accuracy"], label="training", color="#000000", lw=1.4)
    accuracy.plot(decay["step"], decay["test_accuracy"], label="test", color="#009E73", ls="--", lw=1.4)
    accuracy.set(ylabel="accuracy", xlabel="training step")

    curve(against, decay["loss"], decay, "with weight decay: groks", "#0072B2", "o")
    curve(against, no_decay["loss"], no_decay, "without: memorises", "#E69F00", "D")
    against.set(xscale="log", xlabel="training loss, falling to the right")
    against.invert_xaxis()
    against.set_title("at equal training loss", loc="left", fontsize=10)

    for (name, part), color, marker in zip(parts.items(), ("#CC79A7", "#009E73"), "os", strict=False):
        curve(of_parts, part["step"], part, name, color, marker)
    of_parts.set_xlabel("training step")
    of_parts.set_title(f"on {NUM_EXCEPTIONS} exceptions, on as many by the rule", loc="left", fontsize=10)

    of_parts.set_visible(bool(parts))
    for ax in (over, against, of_parts):
        ax.set_ylabel("λ̂")
        ax.set_ylim(bottom=0)
    for ax in (over, accuracy, of_parts):
        ax.set(xscale="log", xlim=(25, LAST * 1.2))
    for ax in (over, accuracy, against, of_parts):
        ax.spines[["top", "right"]].set_visible(False)
    for ax in (over, accuracy, against, *([of_parts] if parts else [])):
        ax.legend(frameon=False, fontsize=8)
    return drawn


def main(quick):
    folder = HERE / "grokking-run" / ("quick" if quick else "full")
    steps = np.geomspace(30, LAST, 6 if quick else 15).round().astype(int).tolist()
    few = steps[1:4] if quick else steps[4::2]
    # blocks of one size, so that the second sweep needs no new program
    numerics = {"num_chains": 4, "num_draws": 400, "thin": 5, "burn_in": 1500, "block_size": 3}
    if quick:
        numerics |= {"num_chains": 2, "num_draws": 120, "burn_in": 500}
    train, test = table(seed=0)
    strange = with_exceptions(train, seed=1)

    train_and_save(folder / "decay" / "checkpoints", train, steps)
    decay = measure("training-loss", folder / "decay", cross_entropy, train, test, numerics)
    as_published = order_of_events(decay)

    train_and_save(folder / "no-decay" / "checkpoints", train, few, weight_decay=0.0)
    no_decay = measure("training-loss", folder / "no-decay", cross_entropy, train, test, numerics)
    losses = [0.1, 0.03, 0.01, 0.003, 0.001]
    print("  training loss   λ̂ with weight decay   without")
    for loss, *pair in zip(losses, at_equal_loss(decay, losses), at_equal_loss(no_decay, losses), strict=True):
        print("  {:13} {:21.0f} {:9.0f}".format(loss, *pair))

    behavioral, parts = None, {}
    if not quick:
        behavioral = measure("behavioral-loss", folder / "decay", behavior, train, test, numerics, few)
        order_of_events(behavioral)
        train_and_save(folder / "exceptions" / "checkpoints", strange, few)
        for name, first in (("exceptions", 0), ("rule", NUM_EXCEPTIONS)):
            part = jax.tree.map(lambda a, first=first: a[first : first + NUM_EXCEPTIONS], strange)
            parts[name] = measure(name, folder / "exceptions", cross_entropy, part, test, numerics)
            said = (f"{float(llc):.1f} ± {float(error):.1f}" for llc, error in zip(*ends(parts[name]), strict=True))
            print(f"  λ̂ at the first and the last checkpoint: {', '.join(said)}")

    figure(decay, no_decay, behavioral, parts).savefig(folder / "grokking.png", dpi=150)
    print(f"\nfigure  {folder / 'grokking.png'}")
    print("λ̂ rises and falls as published" if as_published else "NOT as published: see above")
    return 0 if as_published else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer checkpoints, shorter chains")
    sys.exit(main(parser.parse_args().quick))
