"""Samplers side by side over three decades of step sizes, as Hitchcock & Hoogland (arXiv 2507.21449) compare them.

`python benchmarks/samplers.py` runs what is missing from samplers.json; accuracy.py prints the tables. A grid of step
sizes × chains is one program, here as for a user: hyperparameters are arrays.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from problems import Problem, key_of, problems
from reference import load as load_references
from results import add, load, order_preserved

import sltjax
from sltjax.samplers import Adam, Newton, RMSProp, gaussian, rademacher
from sltjax.sampling import condition_all, sample_block
from sltjax.schedule import Schedule
from sltjax.truth import Truth, quadratic
from sltjax.types import Sampler

FILE = Path(__file__).parent / "samplers.json"
BATCH_SIZE = 100
STEPS, THIN = 5000, 5  # after as many of burn-in
STIFF = 1e5  # the curvature that Newton's scale starts from: beyond what any of the problems has
TOLERANCE = 0.1  # of λ, within which a step size is usable

# name -> (the sampler at a step size, the least step size of the grid); units differ, so grids do
GRID = 10.0 ** np.arange(0, 3.5, 0.5)
SAMPLERS: dict[str, tuple[Callable[[Any], Sampler], float]] = {
    "SGLD": (sltjax.SGLD, 1e-7),
    "SGLD, RMSProp": (lambda step: sltjax.SGLD(step, preconditioner=RMSProp()), 1e-5),
    "SGLD, Adam": (lambda step: sltjax.SGLD(step, preconditioner=Adam()), 1e-5),
    "SGLD, Newton": (lambda step: sltjax.SGLD(step, preconditioner=Newton(STIFF)), 1e-3),
    "Leimkuhler–Matthews": (sltjax.LeimkuhlerMatthews, 1e-7),
    "Leimkuhler–Matthews, Newton": (lambda step: sltjax.LeimkuhlerMatthews(step, preconditioner=Newton(STIFF)), 1e-3),
    "underdamped": (lambda step: sltjax.UnderdampedLangevin(jnp.sqrt(step)), 1e-7),
    "SGHMC": (sltjax.SGHMC, 1e-8),
    "SGNHT": (sltjax.SGNHT, 1e-7),
}


def networks() -> list[Problem]:
    """The smaller half of the published class: deep linear networks of 100 to 400 parameters, trained to no error."""
    return [problem for problem in problems() if problem.family == "deep linear 100–1K"][:12]


def over_step_sizes(problem: Problem, make: Callable[[Any], Sampler], least: float) -> list[float | None]:
    """λ̂ at each step size of the grid, None where a chain was lost."""
    built = problem.make()
    nbeta = problem.temperature(built)
    posterior = sltjax.LocalPosterior(built.loss, built.params, nbeta, problem.gamma)
    repeated = jax.tree.map(lambda w: jnp.repeat(w[None], len(GRID), axis=0), built.params)
    posteriors = condition_all(posterior.at(repeated), built.data, BATCH_SIZE)
    schedule = Schedule(4, STEPS // THIN, STEPS - THIN, THIN, BATCH_SIZE)
    key, steps = jax.random.fold_in(key_of(problem.name), 4), np.arange(len(GRID))
    trace = sample_block(key, posteriors, steps, make(jnp.float32(least * GRID)), built.data, schedule)
    means = nbeta * trace["delta_loss"].astype(np.float64).mean(axis=(1, 2))
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in means]


def noise_on_a_quadratic(noise: Callable[..., Any], stiffness: float) -> dict[str, float]:
    """Of 100 dimensions at ε·A = `stiffness`, against what theory says of Gaussian noise."""
    nbeta, gamma, curvatures = 1000.0, 1.0, np.ones(100)
    built = quadratic(jax.random.key(7), curvatures, num_examples=16)
    step_size = stiffness / (nbeta + gamma)
    known = sltjax.truth.sgld_llc(curvatures, nbeta, gamma, step_size)
    posterior = sltjax.LocalPosterior(built.loss, built.params, nbeta, gamma)
    return sgld_error(jax.random.key(8), posterior, built, noise, step_size, known, burn_in=2000)


def noise_on_a_problem(noise: Callable[..., Any], problem: Problem, step_size: float) -> dict[str, float]:
    """Against the posterior itself."""
    built = problem.make()
    known = load_references()[problem.name]["value"]
    posterior = sltjax.LocalPosterior(built.loss, built.params, problem.temperature(built), problem.gamma)
    return sgld_error(jax.random.key(9), posterior, built, noise, step_size, known, burn_in=10_000, thin=4)


def sgld_error(
    key: jax.Array,
    posterior: sltjax.LocalPosterior,
    built: Truth,
    noise: Callable[..., Any],
    step_size: float,
    known: float,
    **lengths: int,
) -> dict[str, float]:
    """The relative error of λ̂ by SGLD on full data, and its standard error."""
    settings = {"num_chains": 16, "num_draws": 10_000, "batch_size": built.num_examples, **lengths}
    trace = sltjax.sample(key, posterior, sltjax.SGLD(step_size, noise), built.data, **settings)
    found = sltjax.llc(trace, posterior.nbeta)
    return {"value": found.value / known - 1, "std_error": found.std_error / known}


def noises() -> dict[str, Callable[[Any], dict[str, float]]]:
    """What the noise is tried on -> the error of λ̂ under it."""
    found: dict[str, Callable[[Any], dict[str, float]]] = {}
    for stiffness in (0.1, 0.5, 1.5):
        name = f"quadratic d=100 at ε·A = {stiffness:g}, against SGLD's own law"
        found[name] = lambda noise, stiffness=stiffness: noise_on_a_quadratic(noise, stiffness)
    named = {problem.name: problem for problem in problems()}
    for name, step_size in {
        "quasi-homogeneous p=[4]": 1e-2,
        "crossing k=[1, 1]": 1e-3,
        "reduced rank 8-6-8 r2": 1e-4,
    }.items():
        title = f"{name} at ε = {step_size:g}"
        found[title] = lambda noise, name=name, step=step_size: noise_on_a_problem(noise, named[name], step)
    return found


def section() -> str:
    """Both tables, in words and figures."""
    sizes = [sum(w.size for w in jax.tree.leaves(problem.make().params)) for problem in networks()]
    return f"""{len(sizes)} deep linear networks of {min(sizes)} to {max(sizes)} parameters from the published class,
all by one and the same step size, in batches of {BATCH_SIZE}, anchored, four chains of {STEPS:,} steps after as many of
burn-in; against λ. The best step size is the one with the least median error, which takes the answers to know. GHMC,
the default, has none to set.

{step_size_table()}

Noise of the same second moment at a fraction of the price: λ̂ by SGLD on full data with Gaussian and with ±1 noise,
against SGLD's own law on a quadratic, and elsewhere against the posterior.

{noise_table()}"""


def step_size_table() -> str:
    """A line a sampler."""
    found, shared = load(FILE), networks()
    truths = np.array([float(problem.make().llc) for problem in shared])
    usable = f"decades of step size with a median under {TOLERANCE:.0%}"
    lines = [f"| sampler | best step size | median error | worst | order preserved | {usable} |", "|---|" + "---|" * 5]
    for name, (_, least) in SAMPLERS.items():
        values = np.array([found[f"{name}: {problem.name}"] for problem in shared], float)  # [problem, step size]
        errors = np.abs(values / truths[:, None] - 1)
        errors = np.where(np.isfinite(errors), errors, np.inf)
        median = np.median(errors, axis=0)
        best = int(np.argmin(median))
        worst = errors[:, best].max()
        cells = [
            name,
            f"{least * GRID[best]:.0e}",
            f"{median[best]:.1%}",
            f"{worst:.1%}" if np.isfinite(worst) else "lost",
            f"{order_preserved(truths, values[:, best]):.3f}",
            f"{np.sum(median < TOLERANCE) / 2:g}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def noise_table() -> str:
    """A line a problem."""
    found = load(FILE)
    lines = ["| | Gaussian | ±1 |", "|---|---|---|"]
    for title in noises():
        cells = [found[f"{kind} noise: {title}"] for kind in ("Gaussian", "±1")]
        lines.append(f"| {title} | " + " | ".join(f"{c['value']:+.2%} ± {c['std_error']:.2%}" for c in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    for problem in networks():
        for name, (make, least) in SAMPLERS.items():
            entry = f"{name}: {problem.name}"
            if entry not in load(FILE):
                add(FILE, entry, over_step_sizes(problem, make, least))
                print(entry, float(problem.make().llc), load(FILE)[entry], flush=True)
        jax.clear_caches()
    for title, error in noises().items():
        for kind, noise in {"Gaussian": gaussian, "±1": rademacher}.items():
            entry = f"{kind} noise: {title}"
            if entry not in load(FILE):
                add(FILE, entry, {key: float(f"{value:.4g}") for key, value in error(noise).items()})
                print(entry, load(FILE)[entry], flush=True)


if __name__ == "__main__":
    main()
