"""What a monitor costs a training, and whether it changes it: benchmarks/MONITOR.md.

`python benchmarks/monitor.py` trains one network twice in one process, step by step the same, with a monitor and
without, in turns of some steps, and compares times and final weights. Every budget has a process of its own.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from results import write

import sltjax
from sltjax.monitoring import Budget

TABLE = Path(__file__).parent / "MONITOR.md"
WIDTHS = (16, 64, 64, 8)
NUM_EXAMPLES = 8192
TURN, EVERY = 100, 500
MOST_SECONDS = 600.0
RUNS = (("new", 0.2), ("compiled before", 0.1), ("compiled before", 0.05))
SETTINGS = {
    "sampler": sltjax.UnderdampedLangevin(3e-3),
    **{"num_chains": 4, "num_draws": 150, "burn_in": 100, "thin": 2, "batch_size": 256},
}


class Stopwatch:
    """A clock that stands still while the other training has its turn."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.since: float | None = None

    def __call__(self) -> float:
        return self.passed + (0.0 if self.since is None else time.perf_counter() - self.since)

    def go(self) -> None:
        self.since = time.perf_counter()

    def stop(self) -> None:
        self.passed, self.since = self(), None


def apply(params: Any, x: jax.Array) -> jax.Array:
    for w in params[:-1]:
        x = jnp.tanh(x @ w)
    return x @ params[-1]


def measure(budget: float) -> dict[str, Any]:
    """Train twice in turns, until the account is within its budget; in a process of its own."""
    keys = jax.random.split(jax.random.key(0), len(WIDTHS))
    data = jax.random.normal(keys[0], (NUM_EXAMPLES, WIDTHS[0]))
    targets = jnp.sin(2 * data[:, : WIDTHS[-1]])
    shapes = pairwise(WIDTHS)
    params = [jax.random.normal(k, shape) / shape[0] ** 0.5 for k, shape in zip(keys[1:], shapes, strict=False)]
    optimizer = optax.adam(1e-3)

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(params: Any, state: Any, step: Any) -> Any:
        indices = jax.random.randint(jax.random.key(step), (512,), 0, NUM_EXAMPLES)

        def loss(params: Any) -> jax.Array:
            return jnp.mean((apply(params, data[indices]) - targets[indices]) ** 2)

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    def turn(carry: Any, first: int, monitor: Any) -> tuple[Any, float]:
        began = time.perf_counter()
        for step in range(first, first + TURN):
            carry = update(*carry, step)
            if monitor is not None:
                monitor(step, carry[0])
        jax.block_until_ready(carry)
        return carry, time.perf_counter() - began

    def start() -> Any:
        copied = jax.tree.map(jnp.copy, params)
        return copied, optimizer.init(copied)

    turn(start(), 0, None)  # compiled, and both trainings find it so
    watched, plain, clock = start(), start(), Stopwatch()
    account = Budget(budget, clock)
    loss = sltjax.behavioral_loss(apply)
    monitor = sltjax.Monitor(loss, data, every=EVERY, settings=SETTINGS, budget=account, strict=True)
    with_monitor = without = 0.0
    step, same = 0, True
    while with_monitor < MOST_SECONDS and (account.measured < 5 or account.overhead > budget):
        clock.go()
        watched, seconds = turn(watched, step, monitor)
        clock.stop()
        with_monitor += seconds
        plain, seconds = turn(plain, step, None)
        without += seconds
        step += TURN
    for one, other in zip(jax.tree.leaves(watched), jax.tree.leaves(plain), strict=True):
        same &= np.array_equal(one, other)
    return {
        "budget": budget,
        "steps": step,
        "with": with_monitor,
        "without": without,
        "first": account.first,
        "spent": account.spent,
        "measured": account.measured,
        "skipped": account.skipped,
        "same": bool(same),
    }


def line(name: str, found: dict[str, Any]) -> str:
    later = found["spent"] - found["first"]
    cells = [
        name,
        f"{found['budget']:.0%}",
        f"{found['steps']:,}",
        f"{found['without']:.0f} s",
        f"{found['with']:.0f} s",
        f"{1 - found['without'] / found['with']:.1%}",
        f"{found['spent'] / found['with']:.1%}",
        f"{found['first']:.1f} s",
        f"{1000 * later / max(found['measured'] - 1, 1):.0f} ms × {found['measured'] - 1}",
        str(found["skipped"]),
        "yes" if found["same"] else "NO",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(float(sys.argv[1]))))
        return
    lines = []
    with tempfile.TemporaryDirectory() as cache:
        environment = {
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        for name, budget in RUNS:
            command = [sys.executable, __file__, str(budget)]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            lines.append(line(name, json.loads(done.stdout.splitlines()[-1])))
            print(lines[-1], flush=True)
            write(TABLE, page(lines))


def page(lines: list[str]) -> str:
    columns = [
        "programs",
        "budget",
        "steps",
        "without",
        "with",
        "share of the time, by the clock",
        "by its own account",
        "first call",
        "later calls",
        "left out",
        "same weights",
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "numpy"))
    return f"""# What a monitor costs

A network {"-".join(map(str, WIDTHS))} on {NUM_EXAMPLES:,} examples, trained twice in one process, with
`Monitor(..., every={EVERY})` and without, in turns of {TURN} steps, by `python benchmarks/monitor.py` on
{os.cpu_count()} × {platform.machine()}, Python {platform.python_version()}, {versions}. A measurement is
{SETTINGS["num_chains"]} chains of {SETTINGS["burn_in"] + SETTINGS["num_draws"] * SETTINGS["thin"]} steps on batches of
{SETTINGS["batch_size"]:,}. *New*: the first call compiles everything; *compiled before*: it finds the programs in jax's
persistent cache, as a training does that is started again. The first call is always made; later ones wait until it is
paid for, which is where runs end.

| {" | ".join(columns)} |
{"|---" * len(columns)}|
{chr(10).join(lines)}

*By the clock*: 1 − (seconds without) / (seconds with). *Left out*: calls that were due and would have broken the
budget. *Same weights*: of both trainings at the end, bit for bit.
"""


if __name__ == "__main__":
    main()
