"""What every diagnostic costs beside the chains that it is a moment of. Writes ONE_PASS.md, in some minutes.

    uv run python benchmarks/one_pass.py

Chains of a network 784-128-10 with ΔL and the distance recorded, against the same with the losses on 256 examples
recorded at every draw, and what follows from them: λ̂, WAIC, the singular fluctuation, influence and susceptibility,
with their errors. The two are run in turn.
"""

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import sltjax
from sltjax import observables
from sltjax.sampling import DEFAULT_OBSERVABLES, condition_all, sample_block
from sltjax.schedule import Schedule

HERE = Path(__file__).parent
NUM_EXAMPLES, RECORDED, NUM_CHAINS, BATCH_SIZE, REPEATS = 10_000, 256, 16, 512, 3
NBETA = sltjax.default_nbeta(NUM_EXAMPLES)
SETTINGS = {
    "thin 1: a draw a step": Schedule(NUM_CHAINS, 80, 20, 1, BATCH_SIZE),
    "thin 4: as `calibrate` begins": Schedule(NUM_CHAINS, 20, 20, 4, BATCH_SIZE),
}


def loss(params, batch):
    logits = jnp.tanh(batch["x"] @ params["w"] + params["b"]) @ params["v"]
    return jax.nn.logsumexp(logits, axis=1) - jnp.take_along_axis(logits, batch["y"][:, None], axis=1)[:, 0]


def problem():
    w, v, x, y = jax.random.split(jax.random.key(0), 4)
    params = {
        "w": jax.random.normal(w, (784, 128)) / 28,
        "b": jnp.zeros(128),
        "v": jax.random.normal(v, (128, 10)) / 11,
    }
    data = {
        "x": jax.random.normal(x, (NUM_EXAMPLES, 784)),
        "y": jax.random.randint(y, (NUM_EXAMPLES,), 0, 10),
    }
    posterior = sltjax.LocalPosterior(loss, jax.tree.map(lambda x: x[None], params), NBETA, 100.0)
    return condition_all(posterior, data, BATCH_SIZE), data


def diagnostics(trace):
    """Every number, as numpy holds it when this returns."""
    draws = trace["losses"].astype(np.float64)
    variance = draws.var(axis=(0, 1))
    waic = draws.mean(axis=(0, 1)).mean() + NBETA / NUM_EXAMPLES * variance.mean()
    fluctuation = NBETA / NUM_EXAMPLES / 2 * variance.mean() * NUM_EXAMPLES
    return (
        sltjax.llc(trace, NBETA),
        waic,
        fluctuation,
        sltjax.bayesian_influence(trace["losses"]),
        sltjax.correlation(trace["losses"]),
        sltjax.susceptibilities({"whole": trace}),
    )


def seconds(posteriors, data, schedule, recorded, then):
    began = time.perf_counter()
    sampler = sltjax.UnderdampedLangevin(1e-3)
    trace = sample_block(jax.random.key(1), posteriors, np.zeros(1, int), sampler, data, schedule, recorded)
    drawn = time.perf_counter()
    then(jax.tree.map(lambda x: x[0], trace))
    return drawn - began, time.perf_counter() - drawn


def measure(posteriors, data, schedule):
    """Seconds [repeat] of the chains alone, of those that record the losses, and of the estimators."""
    some = jax.tree.map(lambda x: x[:RECORDED], data)
    alone = (DEFAULT_OBSERVABLES, lambda trace: None)
    every = ({**DEFAULT_OBSERVABLES, "losses": observables.losses(loss, some)}, diagnostics)
    for what in (alone, every):
        seconds(posteriors, data, schedule, *what)  # compilation
    found = []
    for _ in range(REPEATS):
        chains, _ = seconds(posteriors, data, schedule, *alone)
        recording, estimating = seconds(posteriors, data, schedule, *every)
        found.append((chains, recording, estimating))
    return np.array(found).T


def main():
    posteriors, data = problem()
    rows = []
    for name, schedule in SETTINGS.items():
        chains, recording, estimating = measure(posteriors, data, schedule)
        ratios = [np.median(x / chains) for x in (recording, estimating, recording + estimating)]
        row = [name, schedule.num_steps, schedule.num_draws, f"{np.median(chains):.1f}", *(f"{r:.2f}" for r in ratios)]
        rows.append("| " + " | ".join(map(str, row)) + " |")
        print(rows[-1], flush=True)
    device = jax.devices()[0].device_kind
    (HERE / "ONE_PASS.md").write_text(TEXT.format(rows="\n".join(rows), machine=machine(device), **SIZES))


SIZES = {"recorded": RECORDED, "chains": NUM_CHAINS, "batch": BATCH_SIZE, "repeats": REPEATS}
TEXT = """# What every diagnostic costs beside its chains

`benchmarks/one_pass.py` draws {chains} chains of a network 784-128-10 (101,760 parameters) by underdamped Langevin on
batches of {batch}: alone, and with the losses on {recorded} examples recorded at every draw, from which come λ̂, WAIC,
the singular fluctuation, the influence and the correlation of all pairs of examples, and susceptibilities, with their
errors. The two are run in turn, {repeats} times; numbers are medians, those of the last three columns of ratios within
a repeat. Compilation is left out.

| | steps a chain | draws | chains alone (s) | recording / alone | estimators / alone | everything / alone |
|---|---|---|---|---|---|---|
{rows}

Runs are short: the estimators' share falls with their length, since the errors of all pairs take as long for many draws
as for few. `calibrate` thins by 4 or more where nothing is said.
Other work on the machine makes seconds long, and ratios uncertain by some hundredths.

{machine}
"""


def machine(device):
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "numpy"))
    return f"*Measured on {os.cpu_count()} CPU cores ({platform.machine()}), device {device}, {packages}.*"


if __name__ == "__main__":
    main()
