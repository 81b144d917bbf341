"""`sweep`: from a source of checkpoints to a Dataset, resumable at every block.

Checkpoints are cut into blocks by their place in the listing, whatever is done already or turns out broken, and
every block runs the same compiled program. So a run that was stopped and started again samples each checkpoint
beside the same neighbours, and writes the same bytes.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TypeAlias

import jax
import numpy as np
import xarray as xr
from jax.sharding import Mesh

from sltjax.calibration import HEAT, Asked, Calibration, choose, settle
from sltjax.checkpoints import CheckpointError, Source
from sltjax.devices import Partition, barrier, is_first_process, make_mesh, place, replicate, tell
from sltjax.posterior import LocalPosterior, default_nbeta
from sltjax.results import check_names, check_size, open_results, to_dataset, write_results
from sltjax.sampling import DEFAULT_OBSERVABLES, as_threefry, condition_all
from sltjax.schedule import Schedule
from sltjax.store import Share, Store
from sltjax.sweeps.blocks import COPIES, Job, Known, Outcome, sound
from sltjax.sweeps.engines import local
from sltjax.sweeps.ledger import Ledger
from sltjax.sweeps.manifest import Manifest, Metric, agree, describe_sweep
from sltjax.sweeps.progress import Bar, progress_bar
from sltjax.types import Batch, Loss, Observable, Params, RngKey, Sampler
from sltjax.validation import count_examples

MAX_BLOCK = 64
BLOCK_BYTES = 2**30

Engine: TypeAlias = Callable[[Job, Source, Sequence[Sequence[int]], Known, Bar], Iterator[tuple[int, Outcome]]]


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
    block_size: int | None = None,
    devices: Mapping[str, int] | None = None,
    partition: Partition | None = None,
    engine: Engine = local,
    share: Share | None = None,
    title: str = "",
    progress: bool = False,
) -> xr.Dataset:
    """Estimate the learning coefficient at every checkpoint of a training run.

    The same call, after a crash or with more checkpoints in the folder, samples what is missing and no more.

    Args:
        key: consumed.
        loss: per-example losses; `behavioral_loss(apply)` measures each checkpoint from itself.
        checkpoints: `checkpoints.from_orbax(...)`, `checkpoints.from_memory(...)` or any other `Source`.
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
        block_size: checkpoints sampled at once; None for as many as keep the chains of a device under 1 GiB, 64 at
            most; a store keeps the width it was begun with. Where memory runs out it is halved.
        devices: how many devices along "checkpoint", "chain" and "model"; None for all of them along "checkpoint".
        partition: for a model that one device cannot hold: PartitionSpecs that name the axis "model", shaped like the
            parameters or a prefix of them.
        engine: where blocks are sampled; `local` is this process.
        share: (i, N): only every Nth block from the ith, where N processes share the store.
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
    metrics, observables = metrics or {}, {**DEFAULT_OBSERVABLES, **(observables or {})}
    check_names([*metrics, *(name for name in observables if name not in DEFAULT_OBSERVABLES)])
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be at least 1 (it is a number of checkpoints), got {block_size}")
    _check_share(share, store)
    nbeta = default_nbeta(count_examples(data)) if nbeta is None else nbeta
    mesh = make_mesh(devices)
    first = _first_sound(checkpoints)
    posterior = LocalPosterior(loss, first, nbeta, gamma)
    asked = Asked(
        sampler, _fitting_chains(num_chains, mesh), num_draws, burn_in, thin, batch_size, error, max_chain_steps
    )
    size, cost = settle(asked, posterior, data)
    block_size = _fitting_block(first, num_chains or 4, len(checkpoints.steps), mesh, block_size)
    described = describe_sweep(key, posterior, data, checkpoints, asked, size, metrics, observables, block_size, title)
    folder = Store(store) if store is not None and is_first_process() else None
    with folder.locked(share) if folder else nullcontext():

        def settled() -> Manifest:
            """Of the store, if one began it; else calibrated, while other shares wait."""
            stored = tell(folder.manifest() if folder else None)
            if stored is None:
                chosen = _calibrated(key, posterior, checkpoints, data, asked, size, cost, mesh, partition)
                lengths = dict(sorted(dataclasses.asdict(chosen.schedule).items()))
                described.update(schedule=lengths, caution=chosen.caution)
            return tell(agree(folder, described) if folder else described)

        with folder.alone() if folder else nullcontext():
            manifest = settled()
        schedule = Schedule(**manifest["schedule"])
        check_size(observables, first, schedule)
        job = Job(
            key,
            posterior,
            data,
            sampler,
            HEAT * error / manifest["caution"],
            schedule,
            manifest["block_size"],
            metrics,
            observables,
            devices,
            partition,
        )
        blocks = _blocks(checkpoints.steps, job.block_size, share)
        num_lanes = len(blocks) * job.block_size * schedule.num_chains
        with (
            progress_bar(num_lanes, schedule.num_steps, progress and is_first_process()) as bar,
            Ledger(folder, bar) as ledger,
        ):
            for step, outcome in engine(job, checkpoints, blocks, ledger.knows, bar):
                ledger.add(step, outcome)
        if folder:
            with folder.alone():
                write_results(folder, checkpoints.steps, folder.failures())
    if store is None:
        return to_dataset(checkpoints.steps, ledger.units, ledger.failures, manifest)
    barrier()
    return open_results(store)


def _check_share(share: Share | None, store: str | Path | None) -> None:
    if share is None:
        return
    index, count = share
    if not 0 <= index < count:
        raise ValueError(f"share: got {index}/{count}, expected i/N with 0 ≤ i < N, such as 0/4, 1/4, 2/4 and 3/4")
    if store is None:
        raise ValueError("share: there is no store for the shares to meet in; pass one")


def _blocks(steps: Sequence[int], size: int, share: Share | None) -> list[Sequence[int]]:
    """The steps in blocks, or every Nth of these from the ith."""
    index, count = share or (0, 1)
    return [steps[first : first + size] for first in range(0, len(steps), size)][index::count]


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
    mesh: Mesh | None,
    partition: Partition | None,
) -> Calibration:
    """One for all checkpoints, from the first, the middle and the last that are sound.

    Every process does the same on a device of its own, unless the model is spread over several.
    """
    steps = checkpoints.steps
    few = {}
    for step in (steps[0], steps[len(steps) // 2], steps[-1]):
        with suppress(CheckpointError):
            few[step] = sound(checkpoints.load(step))
    few = few or {0: posterior.anchor}
    mesh = None if partition is None else mesh
    width = math.ceil(len(few) / mesh.shape["checkpoint"]) * mesh.shape["checkpoint"] if mesh else len(few)
    slots = np.resize(list(few), width)
    anchors = place(jax.tree.map(lambda *leaves: np.stack(leaves), *(few[int(s)] for s in slots)), mesh, partition)
    data = replicate(data, mesh)
    posteriors = condition_all(posterior.at(anchors), data, batch_size)
    pilot_key = jax.random.fold_in(as_threefry(key), 2**32 - 2)
    return choose(pilot_key, posteriors, slots, data, asked, batch_size, cost, mesh)


def _fitting_chains(asked: int | None, mesh: Mesh | None) -> int | None:
    """Chains that fill the devices along "chain"; None leaves it to calibration, where there is but one.

    Raises:
        ValueError: the number asked for does not.
    """
    along = mesh.shape["chain"] if mesh else 1
    if asked is not None and asked % along:
        raise ValueError(f"num_chains: got {asked}, expected a multiple of the {along} devices along chain")
    return along * math.ceil(4 / along) if asked is None and along > 1 else asked


def _fitting_block(params: Params, num_chains: int, num_checkpoints: int, mesh: Mesh | None, asked: int | None) -> int:
    """As many checkpoints as keep the chains of a device under BLOCK_BYTES, in blocks of about equal size.

    A multiple of the devices along "checkpoint", whatever was asked for.
    """
    along = mesh.shape["checkpoint"] if mesh else 1
    if asked is None:
        lane = COPIES * sum(np.size(w) * 4 for w in jax.tree.leaves(params))
        devices = mesh.size if mesh else 1
        most = max(1, min(MAX_BLOCK * along, BLOCK_BYTES * devices // (lane * num_chains)))
        asked = math.ceil(num_checkpoints / math.ceil(num_checkpoints / most))
    return math.ceil(asked / along) * along
