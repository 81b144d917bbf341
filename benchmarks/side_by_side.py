"""Two posteriors, each by several methods: labels with noise, and a tanh network of some hundred parameters.

`python benchmarks/side_by_side.py` runs what is missing from side_by_side.json; accuracy.py prints its table.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from problems import compressed
from reference import nuts_reference
from results import add, load, plain

import sltjax
from sltjax.posterior import default_nbeta
from sltjax.samplers import Newton
from sltjax.truth import Truth
from sltjax.types import Batch, Loss, Params, Sampler

FILE = Path(__file__).parent / "side_by_side.json"
WIDTHS, RANK = (8, 6, 8), 2
INPUTS, HIDDEN, TEACHERS = 16, 16, 4
NUTS = "NUTS, full data"

Method: TypeAlias = Callable[[], dict[str, Any]]


def label_noise() -> Truth:
    """A linear network of 96 parameters at its true parameters, with unit noise on 100,000 labels."""
    return sltjax.truth.deep_linear(jax.random.key(5), WIDTHS, RANK, num_examples=100_000, noise=1.0)


@dataclass(frozen=True)
class Network:
    """What a `Truth` has, of a network whose λ nobody knows."""

    loss: Loss
    params: Params
    data: Batch

    @property
    def num_examples(self) -> int:
        """How many rows the data have."""
        return len(self.data["x"])


def tanh_network() -> Network:
    """Sixteen tanh units, four of which say what the teacher says, and twelve of which nothing reads."""
    teacher_key, input_key = jax.random.split(jax.random.key(6))
    inner, outer, bias = (
        jax.random.normal(key, shape)
        for key, shape in zip(
            jax.random.split(teacher_key, 3), [(INPUTS, TEACHERS), (TEACHERS,), (TEACHERS,)], strict=True
        )
    )
    idle = HIDDEN - TEACHERS
    params = {
        "inner": jnp.pad(inner / math.sqrt(INPUTS), ((0, 0), (0, idle))),
        "bias": jnp.pad(bias, (0, idle)),
        "outer": jnp.pad(outer, (0, idle)),
    }
    x = jax.random.normal(input_key, (1000, INPUTS))
    return Network(squared_error, params, {"x": x, "y": tanh_apply(params, x)})


def tanh_apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["inner"] + params["bias"]) @ params["outer"]


def squared_error(params: dict[str, jax.Array], batch: Batch) -> jax.Array:
    return jnp.square(tanh_apply(params, batch["x"]) - batch["y"]) / 2


def nuts(built: Truth | Network, data: Batch, seconds: float) -> dict[str, Any]:
    nbeta, began = default_nbeta(built.num_examples), time.perf_counter()
    options = {"acceptance": 0.9, "warm_up": 1000, "block": 25, "seconds": seconds}
    found = nuts_reference(built, nbeta, 1.0, data, key=jax.random.key(1), **options)
    numbers = {"value": found.value, "std_error": found.std_error, "rhat": found.rhat, "messages": []}
    return {**numbers, "steps": found.gradients, "seconds": round(time.perf_counter() - began)}


def default(built: Truth | Network) -> dict[str, Any]:
    key, began = jax.random.key(2), time.perf_counter()
    estimate = sltjax.estimate_llc(key, built.loss, built.params, built.data)
    seconds = round(time.perf_counter() - began)
    posterior = sltjax.LocalPosterior(built.loss, built.params, default_nbeta(built.num_examples), 1.0)
    chosen = sltjax.calibrate(jax.random.split(key)[0], posterior, built.data)  # as it was chosen inside
    return {**plain(estimate), "steps": chosen.pilot_steps + chosen.chain_steps, "seconds": seconds}


def sampled(built: Truth | Network, sampler: Sampler, anchored: bool, **settings: int) -> dict[str, Any]:
    nbeta, began = default_nbeta(built.num_examples), time.perf_counter()
    posterior = sltjax.LocalPosterior(built.loss, built.params, nbeta, 1.0, anchored=anchored)
    trace = sltjax.sample(jax.random.key(3), posterior, sampler, built.data, num_chains=4, **settings)
    steps = 4 * (settings["num_draws"] * settings["thin"] + settings["burn_in"])
    estimate = plain(sltjax.llc(trace, nbeta))
    return {**estimate, "steps": steps, "seconds": round(time.perf_counter() - began)}


def sgld(built: Truth | Network, step_size: float, anchored: bool) -> dict[str, Any]:
    """20,000 steps, half of them burn-in."""
    lengths = {"num_draws": 5000, "thin": 2, "burn_in": 9998, "batch_size": 512}
    return sampled(built, sltjax.SGLD(step_size), anchored, **lengths)


def mala(built: Truth | Network) -> dict[str, Any]:
    lengths = {"num_draws": 4000, "thin": 16, "burn_in": 16_000, "batch_size": built.num_examples}
    return sampled(built, sltjax.MALA(0.3, preconditioner=Newton(1e4)), True, **lengths)


def methods() -> Iterator[tuple[str, str, Method]]:
    """(posterior, method, how to run it)."""
    noisy = label_noise()
    name = "label noise: 8-6-8, rank 2, n = 100,000, λ = 24"
    yield name, NUTS, partial(nuts, noisy, compressed(noisy.data), 120)
    yield name, "sltjax, nothing set", partial(default, noisy)
    for step_size in (1e-6, 1e-5, 5e-5):
        yield name, f"plain SGLD, ε = {step_size:g}, batch 512", partial(sgld, noisy, step_size, False)
    yield name, "anchored SGLD, ε = 1e-06, batch 512", partial(sgld, noisy, 1e-6, True)
    network = tanh_network()
    name = f"tanh network {INPUTS}-{HIDDEN}-1, {sum(w.size for w in jax.tree.leaves(network.params))} parameters"
    yield name, NUTS, partial(nuts, network, network.data, 300)
    yield name, "sltjax, nothing set", partial(default, network)
    yield name, "MALA, Newton scale", partial(mala, network)


def section() -> str:
    """A table a posterior, beside what NUTS found there."""
    found = load(FILE)
    posteriors = dict.fromkeys(entry["posterior"] for entry in found.values())
    return "\n\n".join(table(name, [e for e in found.values() if e["posterior"] == name]) for name in posteriors)


def table(posterior: str, entries: list[dict[str, Any]]) -> str:
    reference = next(e for e in entries if e["method"] == NUTS)
    lines = [
        f"| {posterior} | λ̂ | against NUTS | in standard errors | chain-steps | seconds | verdict |",
        "|---|" + "---|" * 6,
    ]
    for entry in entries:
        cells = [
            entry["method"],
            "NaN",
            "",
            "",
            f"{entry['steps']:,}" if "steps" in entry else "",
            f"{entry['seconds']}",
        ]
        if entry["value"] is not None:
            apart = entry["value"] - reference["value"]
            cells[1] = f"{entry['value']:.2f} ± {entry['std_error']:.2f}"
            if entry is not reference:
                cells[2] = f"{apart / reference['value']:+.1%}"
                cells[3] = f"{apart / np.hypot(entry['std_error'], reference['std_error']):+.1f}"
        lines.append(f"| {' | '.join(cells)} | {'; '.join(entry['messages']) or 'healthy'} |")
    return "\n".join(lines)


def main() -> None:
    for posterior, method, run in methods():
        name = f"{posterior}: {method}"
        if name not in load(FILE):
            add(FILE, name, {"posterior": posterior, "method": method, **run()})
            print(name, load(FILE)[name], flush=True)
            jax.clear_caches()


if __name__ == "__main__":
    main()
