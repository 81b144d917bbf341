"""How right λ̂ is with nothing set by hand, on problems whose answer is known: benchmarks/ACCURACY.md.

`python benchmarks/accuracy.py` estimates what is missing, cheapest first, keeps each result in estimates.json as it
comes, so that a stopped run goes on, and writes the table. What λ̂ ought to be comes from reference.py.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import heat
import jax
import numpy as np
import samplers
import side_by_side
from problems import Problem, key_of, problems
from reference import load as load_references
from results import add, load, order_preserved, plain

import sltjax
from sltjax.definition import NBETA_FACTORS
from sltjax.estimators import fit_llc
from sltjax.sampling import sample
from sltjax.truth import Truth

HERE = Path(__file__).parent
FILE = HERE / "estimates.json"
TABLE = HERE / "ACCURACY.md"
REPEATS = (10, 11)  # seeds of further estimates where the answer is exact, which tell how often intervals hold
UNCORRECTED = ("trained", "deep linear 100–1K", "deep linear 10K", "deep linear 100K", "deep linear 1M")  # it is small
COLDER = 64  # times the temperature at which λ̂ is defined, where a curve comes closer to its limit
UNPUBLISHED = ("deep linear 100K", "deep linear 1M")  # where the published length takes hours on two cores
# Lau et al., arXiv 2308.12108, for deep linear networks of up to 50 units: one step size, batch and length for all.
PUBLISHED = {"step_size": 5e-7, "batch_size": 500, "num_steps": 10_000, "burn_in": 0.9}


def ours(problem: Problem, built: Truth, seed: int = 2) -> dict[str, Any]:
    """`estimate_llc` as a user calls it who sets no numerics."""
    key = jax.random.fold_in(key_of(problem.name), seed)
    began = time.perf_counter()
    estimate = sltjax.estimate_llc(
        key, built.loss, built.params, built.data, nbeta=problem.temperature(built), gamma=problem.gamma
    )
    return {**plain(estimate), "seconds": round(time.perf_counter() - began, 1)}


def published(problem: Problem, built: Truth) -> dict[str, Any]:
    """Plain SGLD, nothing anchored, at the published step size, batch and length."""
    posterior = sltjax.LocalPosterior(
        built.loss, built.params, problem.temperature(built), problem.gamma, anchored=False
    )
    kept = int(PUBLISHED["num_steps"] * (1 - PUBLISHED["burn_in"]))
    trace = sample(
        jax.random.fold_in(key_of(problem.name), 3),
        posterior,
        sltjax.SGLD(PUBLISHED["step_size"]),
        built.data,
        num_chains=4,
        num_draws=PUBLISHED["num_steps"],
        burn_in=0,
        thin=1,
        batch_size=min(PUBLISHED["batch_size"], built.num_examples),
    )
    return plain(sltjax.llc({"delta_loss": trace["delta_loss"][:, -kept:]}, problem.temperature(built)))


def repeats(problem: Problem, built: Truth) -> list[dict[str, Any]]:
    """Further estimates with other keys."""
    return [ours(problem, built, seed) for seed in REPEATS]


def corrected(problem: Problem, built: Truth) -> dict[str, float]:
    """λ from a curve over nβ at low temperature, with what γ and m take from it put back: m is known, and no more."""
    key = jax.random.fold_in(key_of(problem.name), 4)
    nbetas = COLDER * NBETA_FACTORS * problem.temperature(built)
    curve = sltjax.llc_curve(key, built.loss, built.params, built.data, nbeta=nbetas, gamma=problem.gamma)
    points = curve.unlocalised()
    values, errors = (np.array([getattr(point, name) for point in points]) for name in ("value", "std_error"))
    found = fit_llc(curve.nbeta, values, errors, built.multiplicity)
    return {"value": float(f"{found.llc:.6g}"), "std_error": float(f"{found.llc_error:.6g}")}


def parts(problem: Problem) -> dict[str, Callable[[Problem, Truth], Any]]:
    """What is to be estimated of a problem."""
    wanted = {
        "ours": True,
        "repeats": problem.exact is not None,
        "corrected": problem.llc_applies and problem.family not in UNCORRECTED,
        "published": problem.family not in UNPUBLISHED,
    }
    runs = {"ours": ours, "repeats": repeats, "corrected": corrected, "published": published}
    return {part: runs[part] for part, is_wanted in wanted.items() if is_wanted}


def rows(method: str) -> list[dict[str, Any]]:
    """What was found by one method, beside what it ought to be."""
    estimates, references = load(FILE), load_references()
    found = []
    for problem in problems():
        if problem.name not in estimates or method not in estimates[problem.name]:
            continue
        entry = estimates[problem.name]
        got = entry[method]
        value = np.nan if got["value"] is None else got["value"]
        known = references.get(problem.name)
        row = {"family": problem.family, "name": problem.name, "flagged": bool(got["messages"]), "value": value}
        row["nan"] = not np.isfinite(value)
        row["seconds"] = got.get("seconds", np.nan)
        if known:
            row["numerics"] = value / known["value"] - 1
            runs = [got, *(entry.get("repeats", []) if method == "ours" else [])]
            row["deviations"] = [deviation(run, known) for run in runs]
        if problem.llc_applies:
            row["llc"] = entry["llc"]
            row["definition"] = value / entry["llc"] - 1
            if method == "ours" and "corrected" in entry:
                row["corrected"] = entry["corrected"]["value"] / entry["llc"] - 1
        found.append(row)
    return found


def deviation(run: dict[str, Any], known: dict[str, Any]) -> float:
    """How far off an estimate is, in units of both standard errors together."""
    if run["value"] is None:
        return np.inf
    return (run["value"] - known["value"]) / np.hypot(run["std_error"] or np.inf, known["std_error"])


def summary(found: list[dict[str, Any]]) -> str:
    """The cells of one line of the table."""

    def errors(name: str) -> str:
        values = np.abs([row[name] for row in found if name in row])
        if not len(values):
            return "– | –"
        return f"{np.median(values):.1%} | {np.max(values):.1%}" if np.isfinite(values).all() else "NaN | NaN"

    deviations = np.array([z for row in found for z in row.get("deviations", [])])
    inside = f"{np.mean(np.abs(deviations) < 1.96):.0%}" if len(deviations) else "–"
    flagged = f"{np.mean([row['flagged'] for row in found]):.0%}"
    seconds = np.median([row["seconds"] for row in found])
    cells = [str(len(found)), errors("numerics"), inside, errors("definition"), errors("corrected"), flagged]
    return " | ".join([*cells, f"{seconds:.0f}" if np.isfinite(seconds) else "–"])


def order(found: list[dict[str, Any]]) -> float:
    """The order-preservation rate over the problems with a known λ."""
    known = [row for row in found if "llc" in row]
    return order_preserved([row["llc"] for row in known], [row["value"] for row in known])


def table(method: str) -> str:
    """A line a family, and one over all."""
    found = rows(method)
    head = (
        "| family | problems | numerics: median | worst | inside 95 % | definition: median | worst "
        "| corrected: median | worst | flagged | seconds |\n" + "|---|" + "---|" * 10
    )
    families = dict.fromkeys(row["family"] for row in found)
    lines = [f"| {family} | {summary([r for r in found if r['family'] == family])} |" for family in families]
    return "\n".join([head, *lines, f"| **all** | {summary(found)} |"])


def write_table() -> None:
    mine, plain_sgld = rows("ours"), rows("published")
    numerics = [row for row in mine if "numerics" in row]
    deviations = np.array([z for row in numerics for z in row["deviations"]])
    unflagged = [row["name"] for row in numerics if not row["flagged"] and abs(row["numerics"]) > 0.1]
    worst = sorted(numerics, key=lambda row: -abs(row["numerics"]))[:8]
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "blackjax", "numpy"))
    text = f"""# Accuracy

What is estimated on problems whose answer is known, by `python benchmarks/accuracy.py`, `side_by_side.py` and
`samplers.py`, on {os.cpu_count()} × {platform.machine()}, Python {platform.python_version()}, {versions}.

Two errors are kept apart. *Numerics*: against λ̂ of the same posterior (same loss, data, nβ, γ) by closed form,
quadrature or NUTS on the full data (references.json), which is ours to remove. *Definition*: against λ itself, where
the anchor is a minimum and λ is known there, which is a matter of nβ, γ and the multiplicity m.

## `estimate_llc` with no numerics set

*Inside 95 %*: how often the reference lies within 1.96 of both standard errors together, over the run shown and, where
the reference is exact, {len(REPEATS)} more with other keys. *Corrected*: λ by `fit_llc` from a curve over nβ (seven
octaves about {COLDER} n/log n, `llc_curve` with nothing else set), each point with its `localisation_bias` put back,
for the m that theory gives: at a minimum of L_n, λ is the limit of large nβ.
*Seconds*: median of a whole call of `estimate_llc`, compilation included, on one core that shares its machine.
Networks of 10,000 weights and more, and *corrected*, were run before the chains of a pilot went on.

{table("ours")}

* Order preserved in {order(mine):.3f} of all pairs with different λ; {sum(row["nan"] for row in mine)} NaN.
* Off by more than 10 % in numerics without a flag: {", ".join(unflagged) or "none"}.
* Deviations in units of their standard errors: root mean square {np.sqrt(np.mean(deviations**2)):.2f}
  over {len(deviations)} runs, where 1 is right.
* The largest errors of numerics: {"; ".join(map(told, worst))}.

The large errors of definition are those of crossings and tanh networks at n = 1000, whose posterior at that nβ is
still far from its limit: exact quadrature says the same, and no sampler can take them away. A curve towards the limit
does, and costs some ten estimates.

## The heat of batches

What the noise of batches adds to λ̂ is measured where chains end and taken off, with a fifth of it added to the
standard error: (D/8)·E|∇U_B − ∇U|², D the squared step along slow directions. Linear networks with 20,000 examples,
against GHMC on all of them:

{heat.section()}

## Two posteriors by several methods

{side_by_side.section()}

Seconds of NUTS on the linear network are for 16 rows of data with the same mean loss, which only linear models have.

GHMC on the full data is the default because of tables such as these: a chain-step is one gradient in all of them, and
the error falls with the root of their number. It needs no step size, is exact at any, and cannot heat. Batches do not
save what they cost at nβ = n/log n: their noise heats in proportion to the distance a chain goes in a step.

## The same problems by plain SGLD at the published settings

ε = {PUBLISHED["step_size"]:g}, batch {PUBLISHED["batch_size"]}, {PUBLISHED["num_steps"]:,} steps of which the last
tenth counts, four chains. The settings were published for deep linear networks; for the others they are what a user
gets who takes them over.

{table("published")}

Order preserved in {order(plain_sgld):.3f} of pairs.

## Samplers over three decades of step sizes

{samplers.section()}
"""
    TABLE.write_text(text)


def told(row: dict[str, Any]) -> str:
    return f"{row['name']} {row['numerics']:+.1%}{' (flagged)' if row['flagged'] else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="families whose name begins so")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no problem is begun")
    parser.add_argument("--share", default="0/1", help="i/N: every Nth problem from the ith")
    options = parser.parse_args()
    index, count = map(int, options.share.split("/"))
    stop = time.perf_counter() + 60 * options.minutes
    wanted = [problem for problem in problems() if problem.family.startswith(options.only)][index::count]
    for problem in wanted:
        if time.perf_counter() > stop:
            break
        entry = load(FILE).get(problem.name, {})
        wanted_parts = parts(problem)
        if all(part in entry for part in wanted_parts):
            continue
        built = problem.make()
        known = {"llc": float(built.llc), "multiplicity": built.multiplicity, "nbeta": problem.temperature(built)}
        found = {part: run(problem, built) for part, run in wanted_parts.items() if part not in entry}
        add(FILE, problem.name, {**known, **entry, **found})
        print(problem.name, known["llc"], found.get("ours", {}).get("value"), flush=True)
        jax.clear_caches()  # programs are memory maps, of which a process may have 65,530
    write_table()


if __name__ == "__main__":
    main()
