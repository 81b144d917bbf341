"""The heat of batches: what their noise adds to λ̂ at several step sizes, what theory says of it, and what is left.

`python benchmarks/heat.py` runs what is missing from heat.json; accuracy.py prints its table.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from problems import compressed
from results import add, load

import sltjax
from sltjax.heat import sample_judged
from sltjax.posterior import default_nbeta
from sltjax.rules import default_rule
from sltjax.sampling import alone, condition_all
from sltjax.schedule import Schedule
from sltjax.truth import Truth, deep_linear

FILE = Path(__file__).parent / "heat.json"
ALLOWED = (0.01, 0.03, 0.1)  # of λ̂: what the rule lets batch noise add, by its look near the anchor
DRAWS = 5000
REACH = 6e-4  # D·thin, so that chains of small steps come as far
MAX_THIN = 64


@dataclass(frozen=True)
class Case:
    """A linear network at a true parameter.

    Attributes:
        widths: of its layers.
        rank: of the product.
        noise: of the labels.
        gamma: γ.
        batch_size: examples a step.
        singular_values: of the product.
    """

    widths: tuple[int, ...]
    rank: int
    noise: float
    gamma: float
    batch_size: int
    singular_values: tuple[float, ...] | None = None

    @property
    def name(self) -> str:
        """In words."""
        shape = "-".join(map(str, self.widths)) + f", rank {self.rank}"
        extras = [f"label noise {self.noise:g}"] * bool(self.noise) + [f"γ = {self.gamma:g}"] * (self.gamma != 1)
        return ", ".join([shape, *extras, f"batch {self.batch_size}"])

    def build(self) -> Truth:
        """Loss, parameters and 20,000 examples."""
        options = {"num_examples": 20_000, "noise": self.noise, "singular_values": self.singular_values}
        return deep_linear(jax.random.key(3), self.widths, self.rank, **options)


CASES = (
    Case((10, 4, 10), 0, 0.5, 1.0, 512),
    Case((10, 4, 10), 4, 0.5, 1.0, 512, (8.0, 4.0, 2.0, 1.0)),
    Case((8, 6, 8), 2, 1.0, 1.0, 256),
    Case((6, 6, 6, 6), 2, 0.0, 10.0, 256),
    Case((7, 4, 9), 2, 0.0, 1.0, 128),
)


def cold(built: Truth, gamma: float) -> sltjax.Estimate:
    """λ̂ without batches: GHMC on few rows with the mean loss of all."""
    rows, nbeta = compressed(built.data), default_nbeta(built.num_examples)
    posterior = sltjax.LocalPosterior(built.loss, built.params, nbeta, gamma)
    sampler = sltjax.GHMC(0.5, preconditioner=sltjax.newton(1e4))
    lengths = {"num_chains": 8, "num_draws": 10_000, "burn_in": 10_000, "thin": 4, "batch_size": len(rows["x"])}
    return sltjax.llc(sltjax.sample(jax.random.key(0), posterior, sampler, rows, **lengths), nbeta)


def measured(case: Case) -> Iterator[dict[str, float]]:
    """For each D: how much warmer λ̂ is than it ought to be, what theory says, and λ̂ without that."""
    built = case.build()
    nbeta, reference = default_nbeta(built.num_examples), cold(built, case.gamma)
    posterior = sltjax.LocalPosterior(built.loss, built.params, nbeta, case.gamma)
    posteriors = condition_all(posterior.at(alone(built.params)), built.data, case.batch_size)
    step = np.zeros(1, int)
    rule = default_rule(jax.random.key(1), posteriors, step, built.data, case.batch_size)
    pace = sltjax.calibrate(jax.random.key(2), posterior, built.data, batch_size=case.batch_size).pace
    known: list[float] = []
    for allowed in ALLOWED:
        sampler = rule.make(allowed, pace)
        distance = float(jnp.squeeze(sampler.step_size**2 * (1 + sampler.persistence) / (1 - sampler.persistence)))
        if distance in known:  # the rule has come to its bound
            continue
        known.append(distance)
        thin = int(np.clip(REACH / distance, 1, MAX_THIN))
        schedule = Schedule(8, num_draws=DRAWS, burn_in=DRAWS * thin - 1, thin=thin, batch_size=case.batch_size)
        trace = jax.tree.map(
            lambda x: x[0], sample_judged(jax.random.key(5), posteriors, step, sampler, built.data, schedule)
        )
        warm = sltjax.llc({"delta_loss": trace["delta_loss"]}, nbeta)
        found = sltjax.llc(trace, nbeta)
        yield {
            "reference": reference.value,
            "reference_error": reference.std_error,
            "squared_step": distance,
            "warm": warm.value,
            "warm_error": warm.std_error,
            "heat": float(np.mean(trace["heat"])),
            "value": found.value,
            "std_error": found.std_error,
        }


def section() -> str:
    """A line for each problem and D."""
    columns = ["problem", "λ̂ without batches", "D", "λ̂ with them", "warmer by", "heat, by theory", "λ̂ less that"]
    columns += ["off by", "in standard errors"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, rows in load(FILE).items():
        for row in rows:
            lines.append(f"| {name} | {' | '.join(cells(row))} |")
    return "\n".join(lines)


def cells(row: dict[str, Any]) -> list[str]:
    off = row["value"] - row["reference"]
    return [
        f"{row['reference']:.2f} ± {row['reference_error']:.2f}",
        f"{row['squared_step']:.1e}",
        f"{row['warm']:.2f} ± {row['warm_error']:.2f}",
        f"{row['warm'] / row['reference'] - 1:+.1%}",
        f"{row['heat'] / row['reference']:+.1%}",
        f"{row['value']:.2f} ± {row['std_error']:.2f}",
        f"{off / row['reference']:+.1%}",
        f"{off / np.hypot(row['std_error'], row['reference_error']):+.1f}",
    ]


def main() -> None:
    for case in CASES:
        if case.name not in load(FILE):
            rows = [{name: float(f"{x:.6g}") for name, x in row.items()} for row in measured(case)]
            add(FILE, case.name, rows)
            print(case.name, *map(cells, rows), sep="\n", flush=True)


if __name__ == "__main__":
    main()
