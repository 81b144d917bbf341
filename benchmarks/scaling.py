"""What a chain-step costs as chains, checkpoints, parameters and data grow, and how near that is to the machine's best.

`python benchmarks/scaling.py` writes scaling.json, speed.py the table. The model is an MLP of tanh, 8-64-64-1 where
nothing else is said, at batch 128, 4 chains around 1 checkpoint, 1,024 examples; the sampler plain SGLD with ±1 noise.
Chains share the cores, which jax has as devices (`jax_num_cpu_devices`). The least time is the roofline's: the FLOPs of
the gradient at the rate of a product of two large square matrices, or four passes over the weights (each is read and
written, and so is its gradient) at that of adding large arrays, whichever takes longer. Both rates are measured in the
same run.

With `--device gpu` it is a file and a table of that device's own.
"""

import json
import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import against_peers
import jax
import jax.numpy as jnp
import numpy as np
from overhead import slope
from results import choose_device, device, load, of_device, write

import sltjax
from sltjax.calibration import gradient_flops
from sltjax.devices import cores, place, replicate
from sltjax.samplers import rademacher
from sltjax.sampling import condition_all, sample_block
from sltjax.schedule import Schedule

FILE = Path(__file__).parent / "scaling.json"
BATCH, SHORT, TURNS, SECONDS = 128, 5, 5, 0.3
PASSES = 4


@dataclass(frozen=True)
class Size:
    """What is sampled at once."""

    chains: int = 4
    checkpoints: int = 1
    width: int = 64
    examples: int = 1024


AXES = {
    "chains": (1, 4, 16, 64, 256),
    "checkpoints": (1, 4, 16, 64),
    "width": (16, 64, 256, 1024),
    "examples": (1_000, 10_000, 100_000, 1_000_000),
}


def sampled(size: Size) -> tuple[Callable[[int], Any], float, int]:
    """steps -> the draws of so many steps of all lanes; the FLOPs of the gradients of a step, and the weights moved."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = against_peers.dense(keys[0], (8, size.width, size.width, 1), True)
    x = jax.random.normal(keys[1], (size.examples, 8))
    data = {"x": x, "y": jax.random.normal(keys[2], (size.examples, 1))}

    def loss(params: Any, batch: Any) -> jax.Array:
        return against_peers.squared(against_peers.feed_forward(params, batch["x"], True), batch["y"])

    posterior = sltjax.LocalPosterior(loss, params, size.examples / math.log(size.examples), 1.0, anchored=False)
    stack = jax.tree.map(lambda w: jnp.repeat(w[None], size.checkpoints, axis=0), params)
    mesh = cores(size.chains)
    data = replicate(data, mesh)
    posteriors = condition_all(posterior.at(place(stack, mesh)), data, BATCH)
    sampler, steps = sltjax.SGLD(1e-6, noise=rademacher), np.arange(size.checkpoints)

    def run(count: int) -> Any:
        schedule = Schedule(size.chains, count, 0, 1, BATCH)
        return sample_block(jax.random.key(0), posteriors, steps, sampler, data, schedule, mesh=mesh)

    lanes = size.chains * size.checkpoints
    return run, lanes * BATCH * gradient_flops(posterior, data), lanes * sum(w.size for w in params.values())


def seconds_a_step(run: Callable[[int], Any]) -> float:
    """The median of turns, each of SECONDS at least, preparation left out."""
    steps, found = SHORT, 0.0
    while found * steps < SECONDS:
        steps *= 4
        slope(run, steps)  # compiles
        found = slope(run, steps)
    return statistics.median(slope(run, steps) for _ in range(TURNS))


def best(function: Callable[..., jax.Array], *args: jax.Array) -> float:
    """The least seconds of a call."""
    times = []
    for _ in range(20):
        began = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - began)
    return min(times)


def machine() -> dict[str, float]:
    """FLOPs and bytes a second, at best."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    square, long = jnp.ones((size, size)), jnp.ones(2**26)
    flops = 2 * size**3 / best(jax.jit(jnp.matmul), square, square)
    return {"flops": flops, "bytes": 2 * long.nbytes / best(jax.jit(partial(jnp.add, 1.0)), long)}


def section(file: Path = FILE) -> str:
    """A row a size."""
    found = load(file)
    flops, moved = found["machine"]["flops"], found["machine"]["bytes"]
    told = f"{' '.join(__doc__.split(chr(10) * 2)[1].split())} Here: {flops / 1e9:.0f} GFLOP/s, {moved / 1e9:.0f} GB/s."
    told = told.split("table. ", 1)[1]
    lines = ["| what grows | | chain-steps a second | GFLOP/s | of the least time |", "|---|---|---|---|---|"]
    for axis, rows in found["axes"].items():
        for count, row in rows.items():
            least = max(row["flops"] / flops, PASSES * 4 * row["weights"] / moved)
            cells = [f"{row['lanes'] / row['seconds']:,.0f}", f"{row['flops'] / row['seconds'] / 1e9:.1f}"]
            lines.append(f"| {axis} | {int(count):,} | {' | '.join(cells)} | {row['seconds'] / least:.1f} × |")
    return f"{told}\n\n" + "\n".join(lines)


def main() -> None:
    choose_device(__doc__)
    jax.config.update("jax_num_cpu_devices", os.cpu_count())
    axes: dict[str, dict[str, Any]] = {}
    for axis, counts in AXES.items():
        for count in counts:
            size = replace(Size(), **{axis: count})
            run, flops, weights = sampled(size)
            lanes = size.chains * size.checkpoints
            entry = {"seconds": seconds_a_step(run), "lanes": lanes, "flops": flops, "weights": weights}
            axes.setdefault(axis, {})[str(count)] = {name: float(f"{x:.4g}") for name, x in entry.items()}
            print(axis, count, entry, flush=True)
    found = {"machine": {name: float(f"{x:.4g}") for name, x in machine().items()}, "axes": axes}
    write(of_device(FILE, device()), json.dumps(found, indent=1) + "\n")
    print(section(of_device(FILE, device())))


if __name__ == "__main__":
    main()
