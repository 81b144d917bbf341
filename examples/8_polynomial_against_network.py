"""A polynomial with as many parameters as data uses all of them, and a network does not.

    uv run python examples/8_polynomial_against_network.py [--quick]

Polynomials and tanh networks of the same numbers of parameters d, up to the number of examples n, are fitted to the
same data, y = f(x) + noise of known σ; the loss is the negative log-likelihood ½(y − f_w(x))²/σ², and λ̂ is taken of
it at its minimum. A polynomial is linear in its parameters, so λ = d/2 exactly. A network's λ̂ takes the place of d/2 in

    F̂ = n L_n(w*) + λ̂ log n    for    BIC = n L_n(w*) + d/2 log n

F̂ is the WBIC of the posterior about w*: nL_n, averaged over the chains. (m − 1) log log n is left out; m is 1 for
polynomials and not known for networks, where it would take off a nat or two. Free energy is about evidence. The loss on
new data is foretold in Akaike's manner, by L_n(w*) + 2λ̂/n for L_n(w*) + d/n: a theorem where λ = d/2, no more than a
guess where it is not.

γ = 1 is a prior, N(w*, 1) about the fit, which costs nothing for where w* lies: λ̂ counts the directions in which data
say more than it does, nβ·h > γ. On the polynomial's orthonormal basis all have h = 1/σ², and it takes under 1 % of λ̂.
A network has directions of every h: with d = n = 40, λ̂ is 4.9 at γ = 1, 5.6 at 0.1 and 5.9 at 0.01, where d/2 is 20.

What to expect at n = 100: a polynomial has 2λ̂ = d all the way, and its loss on new data climbs to 0.97 at d = n, where
it has learnt all the noise; 0.5 is perfect. Networks have λ̂ = 3.5 to 5.5 from 10 to 100 parameters, and 0.54 to 0.58
on new data. By λ̂ that is foretold to 0.09, as well as for polynomials, and by d to 0.36. Where λ̂ errs: at n = 40 and
d = n it foretells a network 0.56 for 0.67, for at its minimum that has fitted more noise than λ̂ counts. F̂ puts more
pairs of models in the order of their loss on new data than BIC does at n = 100, 83 % to 73 %; at n = 40 both have 76 %,
and among networks alone BIC does as well or better: it takes the small ones, and their losses differ by little.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from flax import nnx
from matplotlib.figure import Figure
from scipy.stats import kendalltau

import sltjax
from sltjax.plots.drawing import BLACK, BLUE, VERMILLION, tidy
from sltjax.truth import localized_llc

QUICK = "--quick" in sys.argv[1:]
RUN = Path(__file__).resolve().parent / ("polynomial-run-quick" if QUICK else "polynomial-run")
SIZES, SEEDS, TRAINING_STEPS, NUM_DRAWS = ((40,), 3, 3000, 800) if QUICK else ((40, 100), 5, 10_000, 1500)
WIDTHS = {40: (2, 3, 4, 6, 9, 13), 100: (2, 3, 4, 6, 9, 14, 21, 33)}  # d = 3·width + 1, up to n

SIGMA = 0.3  # of the noise, and known
GAMMA = 1.0
KINDS = ("polynomial", "network")


def truth(x):
    return jnp.sin(5 * x) * jnp.exp(-x / 2)


def nodes(count):
    """Inputs at which Chebyshev polynomials of degree below `count` are orthogonal."""
    return jnp.cos(jnp.pi * (jnp.arange(count) + 0.5) / count)


class Model(nnx.Module):
    """A network and a polynomial at once; masks say which units and terms there are, the others do nothing."""

    def __init__(self, width: int, num_terms: int, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(1, width, rngs=rngs)
        self.out = nnx.Linear(width, 1, rngs=rngs)
        self.coefficients = nnx.Param(jnp.zeros(num_terms))

    def __call__(self, x, units, terms):
        network = units[0] * self.out(units * jnp.tanh(self.hidden(x[:, None])))[:, 0]
        return network + chebyshev(x, len(terms)) @ (terms * self.coefficients)


def chebyshev(x, count):
    """√2·T_k(x), and 1 for k = 0: orthonormal over `nodes(n)` for any n ≥ count; [len(x), count]."""
    basis = jnp.cos(jnp.arange(count) * jnp.arccos(x)[:, None])
    return basis * jnp.where(jnp.arange(count) == 0, 1, 2**0.5)


def outputs_of(n):
    """`outputs(checkpoint, x)`, and the weights of each seed before they are fitted."""
    models = [Model(WIDTHS[n][-1], n, nnx.Rngs(seed)) for seed in range(SEEDS)]
    _, pure = sltjax.from_nnx(models[0], lambda model, batch: model(batch["x"], batch["units"], batch["terms"]))

    def outputs(checkpoint, x):
        return pure(nnx.State(checkpoint["weights"]), {**checkpoint, "x": x})

    return outputs, [nnx.to_pure_dict(nnx.state(model, nnx.Param)) for model in models]


def loss_of(n, outputs):
    """−log p(y | x) less a constant: ½ squared error / σ², with labels that travel with the checkpoint."""

    def loss(checkpoint, batch):
        return 0.5 * ((outputs(checkpoint, batch["x"]) - checkpoint["labels"][batch["index"]]) / SIGMA) ** 2

    return loss, {"x": nodes(n), "index": jnp.arange(n)}


def fitted(n):
    """Every model at its minimum, leaves [seed · kind · size, ...]: least squares, and Adam on all the data."""
    outputs, starts = outputs_of(n)
    loss, data = loss_of(n, outputs)
    unfitted = []
    for seed, weights in enumerate(starts):
        labels = truth(data["x"]) + SIGMA * jax.random.normal(jax.random.key(1000 + seed), (n,))
        least_squares = chebyshev(data["x"], n).T @ labels / n
        for kind in KINDS:
            for width in WIDTHS[n]:
                units = (np.arange(WIDTHS[n][-1]) < width) & (kind == "network")
                terms = jnp.float32((np.arange(n) < 3 * width + 1) & (kind == "polynomial"))
                masks = {"units": jnp.float32(units), "terms": terms}
                unfitted.append(
                    {"weights": {**weights, "coefficients": terms * least_squares}, "labels": labels, **masks}
                )
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, TRAINING_STEPS))

    def fit(checkpoint):
        def of_layers(layers):
            weights = {**checkpoint["weights"], **layers}
            return jnp.mean(loss({**checkpoint, "weights": weights}, data))

        def step(carry, _):
            updates, state = optimizer.update(jax.grad(of_layers)(carry[0]), carry[1])
            return (optax.apply_updates(carry[0], updates), state), None

        layers = {name: checkpoint["weights"][name] for name in ("hidden", "out")}
        (layers, _), _ = jax.lax.scan(step, (layers, optimizer.init(layers)), length=TRAINING_STEPS)
        return {**checkpoint, "weights": {**checkpoint["weights"], **layers}}

    return jax.jit(jax.vmap(fit))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *unfitted))


def save(models, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(len(models["labels"])):
        leaves, _ = jax.tree_util.tree_flatten_with_path(jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), models))
        np.savez(
            folder / f"step_{i}.npz", **{jax.tree_util.keystr(k, simple=True, separator="/"): x for k, x in leaves}
        )


def sampled(n):
    """λ̂ of all models at n examples: one program, since masks alone set them apart."""
    outputs, _ = outputs_of(n)
    loss, data = loss_of(n, outputs)

    def test_loss(checkpoint, data):
        """The loss expected of new labels at new inputs of the same density."""
        x = nodes(1009)
        return 0.5 + 0.5 * jnp.mean(((outputs(checkpoint, x) - truth(x)) / SIGMA) ** 2)

    folder = RUN / str(n)
    if not (folder / "fitted").exists():
        save(fitted(n), folder / "unfinished")
        (folder / "unfinished").rename(folder / "fitted")
    return sltjax.sweep(
        jax.random.key(n),
        loss,
        sltjax.checkpoints.from_npz(folder / "fitted"),
        data,
        store=folder / "results",
        gamma=GAMMA,
        num_chains=4,
        num_draws=NUM_DRAWS,
        thin=4,
        select=sltjax.part("weights/.*"),
        metrics={"test_loss": test_loss},
        progress=True,
    ).load()


def table_of(n, dataset):
    """A row a model: λ̂, free energies in nats, and the loss on new data beside what is foretold of it."""
    index = pd.MultiIndex.from_product([range(SEEDS), KINDS, WIDTHS[n]], names=["seed", "kind", "width"])
    columns = {"loss": "train", "llc": "λ̂", "llc_std_error": "error", "test_loss": "test"}
    table = pd.DataFrame({new: dataset[old].to_numpy() for old, new in columns.items()}, index).reset_index()
    d, train, llc = 3 * table["width"] + 1, table["train"], table["λ̂"]
    return table.assign(
        **{
            "d": d,
            "2λ̂/d": 2 * llc / d,
            "F̂": n * train + llc * np.log(n),
            "BIC": n * train + d / 2 * np.log(n),
            "test by λ̂": train + 2 * llc / n,
            "test by d": train + d / n,
        }
    )


def judged(table):
    """λ̂ and d/2 against the loss on new data: the order of models, the one picked, and what is foretold."""
    rows = []
    for models, of_kind in (("all", table), *table.groupby("kind")):
        for count, criterion, foretold in (("λ̂", "F̂", "test by λ̂"), ("d/2", "BIC", "test by d")):
            by_seed = [seed for _, seed in of_kind.groupby("seed")]
            taus = [kendalltau(seed[criterion], seed["test"]).statistic for seed in by_seed]
            excess = [seed["test"][seed[criterion].idxmin()] - seed["test"].min() for seed in by_seed]
            error = (of_kind[foretold] - of_kind["test"]).pow(2).mean() ** 0.5
            found = {"pairs in order": (np.mean(taus) + 1) / 2, "pick above best": np.mean(excess), "rms error": error}
            rows.append({"models": models, "count": count, **found})
    return pd.DataFrame(rows)


def figure_of(tables):
    """λ̂, free energy and test loss against d, a row an n: means and standard deviations over seeds."""
    figure = Figure(figsize=(9.5, 2.9 * len(tables) + 0.3), layout="constrained")
    for row, (n, table) in zip(figure.subplots(len(tables), 3, squeeze=False), tables.items(), strict=True):
        for kind, color, marker in zip(KINDS, (VERMILLION, BLUE), "so", strict=True):
            models = table[table["kind"] == kind].groupby("d")
            middle, spread = models.mean(numeric_only=True), models.std(numeric_only=True)
            style = {"color": color, "marker": marker, "ms": 4, "lw": 1.2}
            for ax, name, label in zip(row, ("λ̂", "F̂", "test"), ("", ", by λ̂", ", measured"), strict=True):
                ax.errorbar(middle.index, middle[name], spread[name], label=kind + label, capsize=2, **style)
            row[1].plot(middle["BIC"], label=f"{kind}, by d/2", ls="--", mfc="white", **style)
            row[2].plot(middle["test by λ̂"], label=f"{kind}, by λ̂", ls="--", mfc="white", **style)
        sizes = np.unique(table["d"])
        row[0].plot(sizes, sizes / 2, color=BLACK, lw=1, ls=":", label="d/2")
        for ax, title in zip(row, ("λ̂", "free energy, nats", "loss on new data"), strict=True):
            tidy(ax)
            ax.set_xlabel("parameters d")
            ax.set_ylabel(title)
            ax.set_title(f"n = {n}", loc="left", fontsize=10)
    for ax in figure.axes[:3]:
        ax.legend(frameon=False, fontsize=7.5)
    return figure


def what_fails(n, table):
    """What must hold, and does not."""
    polynomials = table[table["kind"] == "polynomial"]
    widest = table[(table["kind"] == "network") & (table["d"] == n)]
    exact = [localized_llc([SIGMA**-2] * d, sltjax.default_nbeta(n), GAMMA) for d in polynomials["d"]]
    if not ((polynomials["λ̂"] - exact).abs() < 4 * polynomials["error"]).all():
        yield f"n = {n}: λ̂ of a polynomial is not d/2, less what γ takes"
    if not (polynomials["error"] < 0.03 * polynomials["λ̂"]).all():
        yield f"n = {n}: λ̂ of a polynomial is known no better than to 3 %"
    if not (widest["2λ̂/d"] < 0.5).all():
        yield f"n = {n}: a network with as many parameters as data uses more than half of them"
    by_llc, by_count = judged(table)["rms error"][:2]
    if not by_llc < by_count:
        yield f"n = {n}: λ̂ foretells the loss on new data to {by_llc:.3f}, d/2 to {by_count:.3f}"


def main():
    tables, wrong = {}, []
    for n in SIZES:
        table = tables[n] = table_of(n, sampled(n))
        print(f"\nn = {n}, means over {SEEDS} seeds; F̂ and BIC in nats, losses in nats an example")
        means = table.groupby(["kind", "d"], sort=False).mean().drop(columns=["seed", "width"])
        print(means.to_string(float_format="{:.2f}".format))
        print("\nagainst the loss on new data")
        formats = {"pairs in order": "{:.0%}", "pick above best": "{:.3f}", "rms error": "{:.3f}"}
        print(judged(table).to_string(index=False, formatters={k: v.format for k, v in formats.items()}))
        wrong += what_fails(n, table)
    figure_of(tables).savefig(RUN / "polynomial.png", dpi=150)
    print(f"\n{RUN / 'polynomial.png'}")
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
