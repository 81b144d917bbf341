"""Linear networks of two, three and four layers go from saddle to saddle: every plateau against its exact λ.

    uv run python examples/7_saddle_to_saddle.py [--quick]

From small weights a linear network learns one singular value of its target at a time, and waits near a saddle before
each (Jacot et al., arXiv 2106.15933): the rank of the product is 0, then 1, 2, 3. λ of each rank is known exactly, with
its multiplicity m (Aoyagi 2024). Every network is trained, saved with Orbax, and sampled around each checkpoint with
the behavioural loss; the tables say how far each plateau is from λ, and which stage holds each transition.

The formula is λ at the most degenerate network of a rank: others compute the same product with a larger λ, such as
(I, 0) beside (0, 0). Training from small weights stays near the most degenerate: beside the r directions learnt,
which are balanced over the layers, all weights are still near zero. That is checked: the most degenerate network of
each rank is sampled as well, and λ̂ on training's plateaus is that, within errors. Curvature alone would say little:
half the rank of the Hessian is 0 at rank 0.

What to expect: every transition within the interval of its stage, and λ̂ below λ by 0.5 to 6 %, most at low rank and in
deep networks. This is not training's doing, for the degenerate networks show it too: it is what nβ = 2019 and γ = 1
leave of λ. Multiplicity, by (m − 1)/log nβ, explains 20 to 40 % of it where m > 1, and nothing where m = 1; the larger
part is γ's. With that put back to first order (`sltjax.localisation_bias`), λ̂ is within 1.2 % of λ − (m − 1)/log nβ
on eleven of twelve plateaus, and within 3.2 % on all. Chains are slow to cross the flat directions of deep networks:
with four layers most checkpoints carry the warning that they disagree, and errors of single plateaus are too small.
"""

import sys
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import sltjax
from sltjax import demo
from sltjax.estimators import unlocalised_llc
from sltjax.plots.drawing import BLACK, BLUE, ORANGE, VERMILLION, scale_steps, tidy
from sltjax.truth import deep_linear, deep_linear_llc

QUICK = "--quick" in sys.argv[1:]
RUN = Path(__file__).resolve().parent / ("saddle-run-quick" if QUICK else "saddle-run")
NUM_CHECKPOINTS, NUM_CHAINS, NUM_DRAWS, OFF = (24, 4, 1000, 0.12) if QUICK else (48, 8, 1500, 0.08)

NUM_EXAMPLES = 20_000
NBETA = sltjax.default_nbeta(NUM_EXAMPLES)
GAMMA = 1.0
RESOLVED = 2 / NBETA**0.5  # a singular value below is as good as zero to the posterior: see `demo.exact_llc`
SINGULAR_VALUES = (9.0, 3.0, 1.0)
RANK = len(SINGULAR_VALUES)
LEARNING_RATE = 4e-3

# widths -> scale of the first weights; the first step after 0 that is saved, and the last
NETWORKS = {
    (8, 5, 8): (1e-4, 60, 4000),
    (8, 5, 5, 8): (0.02, 150, 20_000),
    (8, 5, 5, 5, 8): (0.08, 100, 40_000),
}


if QUICK:  # two layers are the demo
    NETWORKS = {(8, 5, 5, 5, 8): NETWORKS[8, 5, 5, 5, 8]}


def data_of(widths):
    """As many rows as the network has inputs and outputs, of the second moments of all examples: L_n is the same."""
    truth = deep_linear(
        jax.random.key(0), widths, RANK, num_examples=NUM_EXAMPLES, noise=0.5, singular_values=SINGULAR_VALUES
    )
    x, y = truth.data["x"], truth.data["y"]
    rows = np.linalg.qr(np.hstack([x, y]).astype(float), mode="r")
    rows = jnp.asarray(rows * (len(rows) / len(x)) ** 0.5, jnp.float32)
    return {"x": rows[:, : x.shape[1]], "y": rows[:, x.shape[1] :]}


def train(widths, data):
    """Gradient descent from small weights: (step, layers), evenly spaced in log step."""
    scale, first, last = NETWORKS[widths]
    keys = jax.random.split(jax.random.key(5), len(widths) - 1)
    layers = [scale * jax.random.normal(key, shape) for key, shape in zip(keys, pairwise(widths), strict=True)]

    def descend(_, layers):
        gradient = jax.grad(lambda layers: demo.training_loss(named(layers), data))(layers)
        return [w - LEARNING_RATE * g for w, g in zip(layers, gradient, strict=True)]

    advance = jax.jit(lambda layers, count: jax.lax.fori_loop(0, count, descend, layers))
    steps = [0, *np.geomspace(first, last, NUM_CHECKPOINTS - 1).round().astype(int).tolist()]
    for before, step in pairwise([0, *steps]):
        layers = advance(layers, step - before)
        yield step, layers


def named(layers):
    return {f"layer_{i}": w for i, w in enumerate(layers)}


def sampled(widths, checkpoints, data, store):
    levels = jnp.array([llc for llc, _ in staircase(widths)])

    def exact_llc(params, data):
        return levels[jnp.sum(demo.singular_values(params, data) > RESOLVED)]

    return sltjax.sweep(
        jax.random.key(1),
        sltjax.behavioral_loss(demo.apply),
        checkpoints,
        data,
        store=store,
        nbeta=NBETA,
        gamma=GAMMA,
        num_chains=NUM_CHAINS,
        num_draws=NUM_DRAWS,
        thin=4,
        block_size=12,
        metrics={"loss": demo.training_loss, "exact_llc": exact_llc},
        progress=True,
    ).load()


def staircase(widths):
    """λ and its multiplicity m at each rank."""
    return [(float(llc), m) for llc, m in (deep_linear_llc(widths, rank) for rank in range(RANK + 1))]


def aligned(widths):
    """The most degenerate network of each rank, of which λ is told: every layer cut to that rank."""
    truths = (deep_linear(jax.random.key(2), widths, r, singular_values=SINGULAR_VALUES[:r]) for r in range(RANK + 1))
    return sltjax.checkpoints.from_memory((rank, named(truth.params)) for rank, truth in enumerate(truths))


def plateaus(widths, dataset, degenerate):
    """A row a rank: λ exactly, λ̂ about the most degenerate point, and λ̂ of training's own plateau."""
    found, unlocalised = (
        {exact: (value, error) for exact, value, error in demo.plateaus(run)}
        for run in (dataset, without_gamma(dataset))
    )
    rows = []
    for rank, (exact, m) in enumerate(staircase(widths)):
        there, there_error = float(degenerate["llc"][rank]), float(degenerate["llc_std_error"][rank])
        value, error = found.get(exact, (np.nan, np.nan))
        without, without_error = unlocalised.get(exact, (np.nan, np.nan))
        rows.append(
            {
                "rank": rank,
                "λ": exact,
                "m": m,
                "degenerate λ̂": f"{there:.2f} ± {there_error:.2f}",
                "plateau λ̂": f"{value:.2f} ± {error:.2f}",
                "off": value / exact - 1,
                "without γ": f"{without:.2f} ± {without_error:.2f}",
                "λ − (m−1)/log nβ": exact - (m - 1) / np.log(NBETA),
            }
        )
    return pd.DataFrame(rows)


def without_gamma(dataset):
    """The run with what the localisation takes from λ̂ put back, to first order."""
    traces = [{name: dataset[name][i].to_numpy() for name in ("delta_loss", "distance")} for i in dataset["checkpoint"]]
    estimates = [unlocalised_llc(trace, NBETA, GAMMA) for trace in traces]
    return dataset.assign(
        llc=("checkpoint", [estimate.value for estimate in estimates]),
        llc_std_error=("checkpoint", [estimate.std_error for estimate in estimates]),
    )


def transitions(dataset, stages):
    """A row a step of the staircase: between which checkpoints it is, and the interval of a stage that holds it."""
    step, exact = dataset["step"].to_numpy(), dataset["exact_llc"].to_numpy()
    rows = []
    for after in np.flatnonzero(np.diff(exact)) + 1:
        low, high = step[after - 1], step[after]
        holds = stages[(stages["onset_low"] <= high) & (stages["end_high"] >= low)]
        rows.append({"from step": low, "to step": high, "Δλ": exact[after] - exact[after - 1], "stage": "none"})
        if len(holds):
            stage = holds.iloc[0]
            rows[-1]["stage"] = f"{stage['onset_low']:.0f} to {stage['end_high']:.0f}"
            rows[-1]["Δλ̂"] = f"{stage['delta_llc']:+.2f} ± {stage['delta_llc_std_error']:.2f}"
    return pd.DataFrame(rows)


def figure_of(runs):
    """A panel a depth: λ̂ with errors, the exact staircase, and the stages from onset to end."""
    figure = Figure(figsize=(7.2, 2.4 * len(runs) + 0.4), layout="constrained")
    for ax, (widths, dataset, stages) in zip(np.ravel(figure.subplots(len(runs))), runs, strict=True):
        names = ("step", "llc", "llc_std_error", "exact_llc")
        step, llc, error, exact = (dataset[name].to_numpy()[1:] for name in names)  # step 0 would take half an axis
        tidy(ax)
        ax.plot(step, exact, drawstyle="steps-mid", color=BLACK, lw=1, label="exact λ of the rank")
        for rank, (level, m) in enumerate(staircase(widths)):
            inside = step[exact == level]
            if m > 1 and len(inside):
                below = level - (m - 1) / np.log(NBETA)
                label = "λ − (m − 1)/log nβ" if rank == 0 else None
                ax.plot(inside[[0, -1]], [below, below], color=VERMILLION, ls="--", lw=1, label=label)
        ax.errorbar(step, llc, error, fmt="o", ms=3.2, color=BLUE, elinewidth=0.9, label="λ̂ ± std. error")
        for number, stage in enumerate(stages.itertuples()):
            label = "stage, onset to end" if number == 0 else None
            ax.axvspan(stage.onset, stage.end, color=ORANGE, alpha=0.3, lw=0, label=label)
        scale_steps(ax, step, log_steps=True)
        ax.set_xlabel("training step" if widths == runs[-1][0] else "")
        ax.set_ylabel("λ̂")
        ax.set_title(f"{len(widths) - 1} layers, {'-'.join(map(str, widths))}", loc="left", fontsize=10)
    figure.axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def main():
    runs, wrong = [], []
    for widths in NETWORKS:
        name, data = "-".join(map(str, widths)), data_of(widths)
        folder = RUN / name
        demo.save(train(widths, data), folder / "checkpoints")
        source = sltjax.checkpoints.from_orbax(folder / "checkpoints")
        dataset = sampled(widths, source, data, folder / "results")
        degenerate = sampled(widths, aligned(widths), data, folder / "aligned")
        stages = sltjax.stages(dataset)
        levels, steps = plateaus(widths, dataset, degenerate), transitions(dataset, stages)
        print(f"\n{name}")
        print(levels.to_string(index=False, formatters={"off": "{:+.1%}".format}, float_format="{:.2f}".format))
        print(steps.to_string(index=False))
        runs.append((widths, dataset, stages))
        if not (levels["off"].abs() < OFF).all():
            wrong.append(f"{name}: a plateau is more than {OFF:.0%} off λ")
        if len(steps) != RANK or (steps["stage"] == "none").any():
            wrong.append(f"{name}: expected {RANK} transitions, each within the interval of a stage")
        if len(stages) != RANK:
            wrong.append(f"{name}: {len(stages)} stages for {RANK} transitions")
    figure_of(runs).savefig(RUN / "saddles.png", dpi=150)
    print(f"\n{RUN / 'saddles.png'}")
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
