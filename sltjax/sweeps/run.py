"""`sweep`: from a source of checkpoints to a Dataset, resumable at every block."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import xarray as xr

from sltjax.calibration import Calibration
from sltjax.checkpoints import Source
from sltjax.devices import Devices, Partition, barrier, is_first_process, tell
from sltjax.results import check_size, open_results, to_dataset, write_results
from sltjax.store import Shard, Store, StoreError
from sltjax.sweeps.blocks import Job, Known, Outcome
from sltjax.sweeps.engines import local
from sltjax.sweeps.ledger import Ledger
from sltjax.sweeps.manifest import Manifest, Metric, agree, settles
from sltjax.sweeps.progress import Bar, Report, progress_bar
from sltjax.sweeps.setup import Setup, prepare
from sltjax.types import Batch, Loss, Observable, Params, RngKey, Sampler

Engine: TypeAlias = Callable[[Job, Source, Sequence[Sequence[int]], Known, Report], Iterator[tuple[int, Outcome]]]
"""(job, checkpoints, blocks of steps, what is known, report) -> (step, what came of it) for what is not known yet."""


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
    observables: Mapping[str, Observable] | None = None,
    diagnostics: Iterable[str] | None = None,
    block_size: int | None = None,
    devices: Devices = None,
    partition: Partition | None = None,
    select: Callable[[Params], Params] | None = None,
    engine: Engine = local,
    shard: Shard | None = None,
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
        observables: name -> function (params, info) -> array, recorded at every draw beside ΔL and |w − w*|; at most
            `UNIT_BYTES` a checkpoint.
        diagnostics: what else to say of each checkpoint, by names from `sltjax.columns`, such as "wbic", "influence" or
            "hessian"; what they need is recorded. None for those that the observables give at no cost.
        block_size: checkpoints sampled at once; None for as many as keep the chains of a device under 1 GiB, 64 at
            most, or 8 where a device is a CPU core; a store keeps the width it was begun with. Where memory runs out it
            is halved.
        devices: how many devices along "checkpoint", "chain" and "model"; None for all of them along "checkpoint".
        partition: for a model that one device cannot hold: PartitionSpecs that name the axis "model", shaped like the
            parameters or a prefix of them.
        select: params -> the part of them that chains move, such as `part("blocks/0/.*")`, with the rest held at the
            checkpoint: a refined λ̂ (Wang et al., arXiv 2410.02984). Observables see that part alone.
        engine: where blocks are sampled; `local` is this process.
        shard: (i, N): only every Nth block from the ith, where N processes share the store.
        title: a name for plots and reports.
        progress: whether to show a progress bar on standard error.

    Returns:
        The Dataset of `results.to_dataset`: dims (checkpoint, chain, draw), coordinate `step`; read lazily from the
        store, if there is one. Checkpoints that could not be read have status "failed" and the reason as their
        verdict.

    Raises:
        ValueError, TypeError: an argument that cannot work; the message says what would.
        StoreError: the store holds results of another definition, of other numerics, data, weights or versions.
        MemoryError: not even one checkpoint fits the device.
    """
    setup = prepare(
        key,
        loss,
        checkpoints,
        data,
        nbeta=nbeta,
        gamma=gamma,
        sampler=sampler,
        num_chains=num_chains,
        num_draws=num_draws,
        burn_in=burn_in,
        thin=thin,
        batch_size=batch_size,
        error=error,
        max_chain_steps=max_chain_steps,
        metrics=metrics,
        observables=observables,
        diagnostics=diagnostics,
        block_size=block_size,
        devices=devices,
        partition=partition,
        select=select,
        title=title,
    )
    _check_shard(shard, store)
    folder = Store(store) if store is not None and is_first_process() else None
    with folder.locked(shard) if folder else nullcontext():
        manifest = settled(setup, folder)
        job = setup.job(manifest)
        check_size(job.observables, setup.posterior, job.schedule)
        blocks = setup.blocks(job.block_size, shard)
        num_lanes = len(blocks) * job.block_size * job.schedule.num_chains
        with (
            progress_bar(num_lanes, job.schedule.num_steps, progress and is_first_process()) as bar,
            Ledger(folder, bar) as ledger,
        ):
            _tell(bar, setup, folder, blocks, job.block_size, shard)
            for step, outcome in engine(job, checkpoints, blocks, ledger.known, bar):
                ledger.add(step, outcome)
        if folder:
            with folder.alone():
                write_results(folder, checkpoints.steps, folder.failures())
    if store is None:
        return to_dataset(checkpoints.steps, ledger.units, ledger.failures, manifest)
    barrier()
    return open_results(store)


def _tell(
    bar: Bar, setup: Setup, folder: Store | None, blocks: Sequence[Sequence[int]], size: int, shard: Shard | None
) -> None:
    steps = setup.checkpoints.steps
    if folder and (done := len(set(folder.steps()).intersection(steps))):
        bar.say(f"{done} of {len(steps)} checkpoints are done already")
    if shard and not blocks:
        bar.say(
            f"nothing is left for shard {shard[0]}/{shard[1]}: {len(steps)} checkpoints in blocks of {size} keep only "
            f"{math.ceil(len(steps) / size)} busy; a new store with a smaller block_size would feed more"
        )


def settled(setup: Setup, folder: Store | None) -> Manifest:
    """What the sweep is: by the store, if one was begun; else calibrated, while other shards wait.

    Raises:
        StoreError: the store holds another sweep; gives every difference.
    """
    with folder.alone() if folder else nullcontext():
        manifest = setup.describe()
        if tell(folder is None or folder.manifest() is None):
            manifest |= settles(setup.calibrate())
        return tell(agree(folder, manifest) if folder else manifest)


def calibrate_sweep(
    key: RngKey, loss: Loss, checkpoints: Source, data: Batch, *, store: str | Path, **settings: Any
) -> Calibration:
    """Calibrate a sweep and begin its store with that: `sweep` goes on from there.

    Args:
        key: as for `sweep`.
        loss: as for `sweep`.
        checkpoints: as for `sweep`.
        data: as for `sweep`.
        store: a new folder.
        settings: as for `sweep`.

    Returns:
        What was chosen, and what the pilot saw of the first, the middle and the last checkpoint.

    Raises:
        ValueError, TypeError: an argument that cannot work; the message says what would.
        StoreError: the store has been begun already.
    """
    setup, folder = prepare(key, loss, checkpoints, data, **settings), Store(store)
    with folder.locked(), folder.alone():
        if folder.manifest() is not None:
            raise StoreError(
                f"{folder.path} has been begun, and its numerics are settled: `sltjax run` goes on with them; choose "
                "another store for others"
            )
        chosen = setup.calibrate()
        agree(folder, setup.describe() | settles(chosen))
    return chosen


def _check_shard(shard: Shard | None, store: str | Path | None) -> None:
    if shard is None:
        return
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard: got {index}/{count}, expected i/N with 0 ≤ i < N, such as 0/4, 1/4, 2/4 and 3/4")
    if store is None:
        raise ValueError("shard: there is no store for the shards to meet in; pass one")
