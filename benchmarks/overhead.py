"""One step of a sampler over the bare gradient of the same lanes, and its memory over parameters and gradient.

The bare gradient is jax's own, of a user's mean loss. "Laid out" is that of sltjax's, whose products lie as XLA's CPU
compiler is fastest with.

`python benchmarks/overhead.py` measures, in turns within one process, and writes overhead.json, speed.py the table.
With `--device gpu` it is a file and a table of that device's own.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import against_peers
import jax
import jax.numpy as jnp
import numpy as np
from results import choose_device, device, of_device, write

import sltjax
from sltjax.losses import mean_loss
from sltjax.posterior import PIECE
from sltjax.samplers import gaussian, rademacher
from sltjax.sampling import alone, bytes_on_a_device, condition_all, draw_batch, lower_block, sample_block
from sltjax.schedule import Schedule

FILE = Path(__file__).parent / "overhead.json"
LANES, TURNS = 16, 7
STEPS = {"MLP 784-128-10, batch 512": 10, "MLP 8-64-64-1, batch 128": 250}  # that take some tenths of a second
NOISES = {"±1 noise": rademacher, "Gaussian noise": gaussian}
SAMPLERS = {
    "LeimkuhlerMatthews": sltjax.LeimkuhlerMatthews(1e-6),
    "UnderdampedLangevin": sltjax.UnderdampedLangevin(1e-3),
    "SGHMC": sltjax.SGHMC(1e-6),
    "SGNHT": sltjax.SGNHT(1e-6),
    "SGLD, RMSProp": sltjax.SGLD(1e-6, preconditioner=sltjax.rmsprop()),
}


def plain_mean(loss: sltjax.types.Loss, params: Any, batch: Any) -> jax.Array:
    return jnp.mean(loss(params, batch))


def laid_out_mean(loss: sltjax.types.Loss, params: Any, batch: Any) -> jax.Array:
    return mean_loss(loss, params, batch, PIECE)


def bare(task: against_peers.Task, lanes: int, mean: Callable[..., jax.Array]) -> Callable[[int], Any]:
    """steps -> the mean losses along so many gradients of all lanes, each at its own weights, on shared batches."""
    loss = partial(mean, task.loss)

    @partial(jax.jit, static_argnums=1)
    def run(params: Any, steps: int) -> tuple[Any, jax.Array]:
        def step(params: Any, number: jax.Array) -> tuple[Any, jax.Array]:
            batch, _ = draw_batch(jax.random.fold_in(jax.random.key(0), number), task.data, task.settings["batch_size"])
            value, gradient = jax.vmap(jax.value_and_grad(loss), in_axes=(0, None))(params, batch)
            # the weights must depend on the gradient, or it would not be computed: the cheapest step there is
            return jax.tree.map(lambda w, g: w - 1e-6 * g, params, gradient), value

        return jax.lax.scan(step, params, jnp.arange(steps))

    stack = jax.tree.map(lambda w: jnp.repeat(w[None], lanes, axis=0), task.params)
    return lambda steps: jax.block_until_ready(run(stack, steps))


def sampled(
    task: against_peers.Task, lanes: int, sampler: sltjax.types.Sampler, anchored: bool
) -> Callable[[int], Any]:
    """steps -> the draws of as many steps of chains around one checkpoint, recorded at each."""
    nbeta, gamma, size = (task.settings[name] for name in ("nbeta", "gamma", "batch_size"))
    posterior = sltjax.LocalPosterior(task.loss, alone(task.params), nbeta, gamma, anchored=anchored)
    posteriors = condition_all(posterior, task.data, size)

    def run(steps: int) -> Any:
        schedule = Schedule(lanes, steps, 0, 1, size)
        return sample_block(jax.random.key(0), posteriors, np.zeros(1, int), sampler, task.data, schedule)

    return run


def programs(task: against_peers.Task, lanes: int) -> dict[str, Callable[[int], Any]]:
    sgld = {f"SGLD, {name}": sltjax.SGLD(1e-6, noise=noise) for name, noise in NOISES.items()}
    plain = {name: sampled(task, lanes, sampler, False) for name, sampler in (sgld | SAMPLERS).items()}
    anchored = {f"SGLD, {name}, anchored": sampled(task, lanes, sgld[f"SGLD, {name}"], True) for name in NOISES}
    bases = {"bare gradient": bare(task, lanes, plain_mean), "laid out": bare(task, lanes, laid_out_mean)}
    return {**bases, **plain, **anchored}


def slope(run: Callable[[int], Any], steps: int) -> float:
    """Seconds a step, preparation left out."""
    times = []
    for number in (steps, 2 * steps):
        began = time.perf_counter()
        run(number)
        times.append(time.perf_counter() - began)
    return (times[1] - times[0]) / steps


def measure(task: against_peers.Task, lanes: int) -> dict[str, Any]:
    """name -> [seconds a step, the ratio to the bare gradient of the same turn, its quartiles]."""
    runs, steps = programs(task, lanes), STEPS[task.name]
    for run in runs.values():
        slope(run, steps)  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(TURNS):
        for name, run in runs.items():
            seconds[name].append(slope(run, steps))
    base = seconds["bare gradient"]
    found = {}
    for name, times in seconds.items():
        ratios = sorted(a / b for a, b in zip(times, base, strict=True))
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75]).round(3).tolist()
        found[name] = [float(f"{statistics.median(times):.3g}"), middle, low, high]
    return found


def memory(task: against_peers.Task, lanes: int) -> dict[str, float]:
    """Bytes a lane of the program that advances the chains, over parameters and gradient of a lane."""
    floor = 2 * sum(4 * w.size for w in task.params.values())
    found = {}
    for name, sampler in {"SGLD": sltjax.SGLD(1e-6), **SAMPLERS}.items():
        posterior = sltjax.LocalPosterior(task.loss, task.params, 100.0, 1.0)
        schedule = Schedule(lanes, STEPS[task.name], 0, 1, task.settings["batch_size"])
        advance = lower_block(posterior, 1, sampler, task.data, schedule)["advance"].compile()
        data = sum(x.nbytes for x in task.data.values())
        found[name] = round((bytes_on_a_device(advance) - data) / lanes / floor, 2)
    return found


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def machine() -> str:
    """What it was measured on."""
    parts = f"{os.cpu_count()} cores of {processor()}"
    if jax.default_backend() != "cpu":
        parts = f"{jax.devices()[0].device_kind}, {parts}"
    return f"{parts}, Python {platform.python_version()}, jax {jax.__version__}"


def main() -> None:
    choose_device(__doc__)
    tasks = {task.name: task for task in against_peers.tasks()}
    found = {}
    for name in STEPS:
        entry = {"ratios": measure(tasks[name], LANES), "memory": memory(tasks[name], LANES)}
        found[f"{name}, {LANES} lanes"] = entry
        print(json.dumps(entry, indent=1, ensure_ascii=False), flush=True)
    found["machine"] = f"{machine()}; a machine shared with others, so ratios within one run."
    write(of_device(FILE, device()), json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
