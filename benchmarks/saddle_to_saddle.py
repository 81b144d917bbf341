"""The demo's network trained and sampled under 50 seeds, for STAGES.md. Writes saddle_to_saddle.json, 40 s a seed.

Every seed has a target, data and an initialisation of its own. Steps, network and definition are those of the demo; the
chains are shorter, so that the errors are three times as large: 2 chains of 500 draws instead of 4 of 2000.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import results
import xarray as xr

import sltjax
from sltjax import demo
from sltjax.posterior import default_nbeta

HERE = Path(__file__).parent
FILE = HERE / "saddle_to_saddle.json"
SIZE = demo.Size(num_checkpoints=96, every=50, num_chains=2, num_draws=500)
SEEDS = range(2000, 2050)
LOSS = sltjax.behavioral_loss(demo.apply)


def sampled(seed: int) -> dict[str, Any]:
    """λ̂, its error and the loss along one run, and the steps at which each mode passes the posterior's resolution."""
    truth = demo.problem(seed)
    checkpoints = [
        (step, {f"layer_{i}": w for i, w in enumerate(params)})
        for step, params in demo.train(truth, SIZE, seed + 10_000)
    ]
    with tempfile.TemporaryDirectory() as folder:
        dataset = sltjax.sweep(
            jax.random.key(seed + 20_000),
            LOSS,
            sltjax.checkpoints.from_memory(checkpoints),
            truth.data,
            store=folder,
            num_chains=SIZE.num_chains,
            num_draws=SIZE.num_draws,
            thin=2,
            batch_size=512,
            metrics={"loss": demo.training_loss, "singular_values": demo.singular_values},
            progress=False,
        ).load()
    return {
        "llc": rounded(dataset["llc"]),
        "llc_std_error": rounded(dataset["llc_std_error"]),
        "loss": rounded(dataset["loss"]),
        "crossings": rounded(crossings(dataset["step"].to_numpy(), dataset["singular_values"].to_numpy())),
    }


def crossings(step: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The step at which each mode passes 2/√nβ (see `demo.exact_llc`); modes grow exponentially until then."""
    threshold = 2 / np.sqrt(default_nbeta(demo.NUM_EXAMPLES))
    after = np.argmax(values > threshold, axis=0)
    before, mode = after - 1, np.arange(values.shape[1])
    low, high = np.log(values[before, mode]), np.log(values[after, mode])
    return step[before] + (np.log(threshold) - low) / (high - low) * (step[after] - step[before])


def rounded(values: Any) -> list[float | None]:
    return [float(f"{x:.5g}") if np.isfinite(x) else None for x in np.asarray(values, float)]


def runs() -> Iterator[tuple[xr.Dataset, np.ndarray]]:
    """Each run that was sampled, as `stages` takes it, and its crossings."""
    step = np.arange(SIZE.num_checkpoints) * SIZE.every
    for entry in results.load(FILE).values():
        along = {name: ("checkpoint", np.array(entry[name], float)) for name in ("llc", "llc_std_error", "loss")}
        yield xr.Dataset(along, coords={"step": ("checkpoint", step)}), np.array(entry["crossings"])


def main() -> None:
    for seed in SEEDS:
        if str(seed) not in results.load(FILE):
            results.add(FILE, str(seed), sampled(seed))
            print(seed, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
