"""`sweep`: from a source of checkpoints to a Dataset, resumable at every block.

Checkpoints are cut into blocks by their place in the listing, whatever is done already or turns out broken, and
every block runs the same compiled program. So a run that was stopped and started again samples each checkpoint
beside the same neighbours, and writes the same bytes.
"""

import dataclasses
import math
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from sltjax.calibration import HEAT, Asked, Calibration, choose, settle
from sltjax.checkpoints import CheckpointError, Source
from sltjax.posterior import LocalPosterior, default_nbeta
from sltjax.results import check_metric_names, to_dataset, write_dataset
from sltjax.sampling import condition_all
from sltjax.schedule import Schedule
from sltjax.store import Store
from sltjax.sweeps.blocks import Job, Results, in_blocks, sound
from sltjax.sweeps.manifest import Metric, agree, describe_sweep
from sltjax.sweeps.progress import progress_bar
from sltjax.types import Batch, Loss, Params, RngKey, Sampler
from sltjax.validation import count_examples

MAX_BLOCK = 64
BLOCK_BYTES = 2**30
COPIES = 6  # parameter-sized arrays a lane holds at once: state, gradient, noise, and what XLA keeps beside them


def sweep(
    key: RngKey,
    loss: Loss,
    checkpoints: Source,
    data: Batch,
    *,
    store: str | Path | None = None,
    nbeta: float | None = None,
    gamma: float = 1.0,
    sampler: Sampler | None = None,
    num_chains: int | None = None,
    num_draws: int | None = None,
    burn_in: int | None = None,
    thin: int | None = None,
    batch_size: int | None = None,
    error: float = 0.02,
    max_chain_steps: int | None = None,
    metrics: Mapping[str, Metric] | None = None,
    block_size: int | None = None,
    title: str = "",
    progress: bool = False,
) -> xr.Dataset:
    """Estimate the learning coefficient at every checkpoint of a training run.

    The same call, after a crash or with more checkpoints in the folder, samples what is missing and no more.

    Args:
        key: consumed.
        loss: per-example losses; `behavioral_loss(apply)` measures each checkpoint from itself.
        checkpoints: `checkpoints.from_orbax(...)`, `from_safetensors`, `from_npz`, `from_memory` or any other `Source`.
        data: pytree of arrays [n, ...].
        store: a folder to keep results in, one file a checkpoint; None keeps them in memory alone.
        nbeta: nβ; None for n / log n.
        gamma: γ.
        sampler: None, here and below, for what `calibrate` chooses on the first, the middle and the last checkpoint:
            one rule and one schedule for all of them.
        num_chains: chains a checkpoint.
        num_draws: recorded draws a chain.
        burn_in: steps before the first draw, in which samplers adapt.
        thin: steps a draw.
        batch_size: examples a step.
        error: the share of λ̂ to which the standard error is to come at the worst of those three.
        max_chain_steps: steps times chains that a checkpoint may take.
        metrics: name -> function (params, data) -> array, evaluated at each checkpoint and kept beside λ̂. A
            metric named "loss" stands in for L_n(w*) where that is not the training loss.
        block_size: checkpoints sampled at once; None for as many as keep the chains under 1 GiB, 64 at most; a
            store keeps the width it was begun with.
        title: a name for plots and reports.
        progress: whether to show a progress bar on standard error.

    Returns:
        The Dataset of `results.to_dataset`: dims (checkpoint, chain, draw), coordinate `step`. Checkpoints that
        could not be read have status "failed" and the reason as their verdict.

    Raises:
        ValueError, TypeError: an argument that cannot work; the message says what would.
        StoreError: the store holds results of another definition, of other numerics, data, weights or versions.
    """
    metrics = metrics or {}
    check_metric_names(metrics)
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be at least 1 (it is a number of checkpoints), got {block_size}")
    nbeta = default_nbeta(count_examples(data)) if nbeta is None else nbeta
    first = _first_sound(checkpoints)
    posterior = LocalPosterior(loss, first, nbeta, gamma)
    asked = Asked(sampler, num_chains, num_draws, burn_in, thin, batch_size, error, max_chain_steps)
    size, cost = settle(asked, posterior, data)
    block_size = block_size or _fitting_block(first, num_chains or 4, len(checkpoints.steps))
    manifest = describe_sweep(key, posterior, data, checkpoints, asked, size, metrics, block_size, title)
    folder = Store(store) if store is not None else None
    with folder.locked() if folder else nullcontext():
        stored = folder.manifest() if folder else None
        if stored is None:
            chosen = _calibrated(key, posterior, checkpoints, data, asked, size, cost)
            lengths = dict(sorted(dataclasses.asdict(chosen.schedule).items()))
            manifest = {**manifest, "schedule": lengths, "caution": chosen.caution}
        if folder:
            manifest = agree(folder, manifest)
        block_size, schedule = manifest["block_size"], Schedule(**manifest["schedule"])
        num_chains = schedule.num_chains
        job = Job(key, posterior, data, sampler, HEAT * error / manifest["caution"], schedule, block_size, metrics)
        results = Results(folder)
        num_lanes = math.ceil(len(checkpoints.steps) / block_size) * block_size * num_chains
        with progress_bar(num_lanes, schedule.num_steps, progress) as bar:
            for block in in_blocks(checkpoints, block_size):
                job.run(block, results, bar)
        dataset = to_dataset(checkpoints.steps, results.units, results.failures, manifest)
        if folder:
            write_dataset(dataset, folder.path / "dataset.nc")
    return dataset


def _first_sound(checkpoints: Source) -> Params:
    """The first checkpoint that can be loaded: the shape of all, and what the loss is tried on.

    Raises:
        CheckpointError: none can be; gives the reason for the first.
    """
    failed: CheckpointError | None = None
    for step in checkpoints.steps:
        try:
            return sound(checkpoints.load(step))
        except CheckpointError as error:
            failed = failed or error
    raise CheckpointError(f"none of the {len(checkpoints.steps)} checkpoints can be used; the first: {failed}")


def _calibrated(
    key: RngKey,
    posterior: LocalPosterior,
    checkpoints: Source,
    data: Batch,
    asked: Asked,
    batch_size: int,
    cost: float,
) -> Calibration:
    """One for all checkpoints, from the first, the middle and the last that are sound."""
    steps = checkpoints.steps
    few = {}
    for step in (steps[0], steps[len(steps) // 2], steps[-1]):
        with suppress(CheckpointError):
            few[step] = sound(checkpoints.load(step))
    if not few:
        few = {0: posterior.anchor}
    anchors = jax.tree.map(lambda *leaves: jnp.stack(leaves), *few.values())
    posteriors = condition_all(posterior.at(anchors), data, batch_size)
    pilot_key = jax.random.fold_in(key, 2**32 - 2)
    return choose(pilot_key, posteriors, np.asarray(list(few)), data, asked, batch_size, cost)


def _fitting_block(params: Params, num_chains: int, num_checkpoints: int) -> int:
    """As many checkpoints as keep the chains under BLOCK_BYTES, in blocks of about equal size."""
    lane = COPIES * sum(np.size(w) * 4 for w in jax.tree.leaves(params))
    most = max(1, min(MAX_BLOCK, BLOCK_BYTES // (lane * num_chains)))
    return math.ceil(num_checkpoints / math.ceil(num_checkpoints / most))
