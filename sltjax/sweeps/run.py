"""`sweep`: from a source of checkpoints to a Dataset, resumable at every block.

Checkpoints are cut into blocks by their place in the listing, whatever is done already or turns out broken, and
every block runs the same compiled program. So a run that was stopped and started again samples each checkpoint
beside the same neighbours, and writes the same bytes.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Int

from sltjax.calibration import curvature_met, default_sampler, default_schedule, step_size
from sltjax.checkpoints import CheckpointError, Source, digest, read_ahead
from sltjax.posterior import LocalPosterior, default_nbeta
from sltjax.results import METRIC, OBSERVED, to_dataset, write_dataset
from sltjax.sampling import sample_block
from sltjax.schedule import Schedule
from sltjax.store import Store, StoreError, Unit
from sltjax.sweeps.manifest import agree, describe_sweep
from sltjax.sweeps.progress import Bar, progress_bar
from sltjax.types import Batch, Loss, Params, RngKey, Sampler
from sltjax.validation import as_float32, count_examples, validate

Metric = Callable[[Params, Batch], Array]
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
    num_chains: int = 4,
    num_draws: int | None = None,
    burn_in: int | None = None,
    thin: int | None = None,
    batch_size: int | None = None,
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
        checkpoints: `checkpoints.from_orbax(...)`, `checkpoints.from_memory(...)` or any other `Source`.
        data: pytree of arrays [n, ...].
        store: a folder to keep results in, one file a checkpoint; None keeps them in memory alone.
        nbeta: nβ; None for n / log n.
        gamma: γ.
        sampler: None for the Leimkuhler–Matthews step, at a step size calibrated for each checkpoint by one rule.
        num_chains: chains a checkpoint.
        num_draws: recorded draws a chain; None for the default of `calibrate`, as for the three below.
        burn_in: steps before the first draw.
        thin: steps a draw.
        batch_size: examples a step.
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
    asked = {
        "num_chains": num_chains,
        "num_draws": num_draws,
        "burn_in": burn_in,
        "thin": thin,
        "batch_size": batch_size,
    }
    schedule = default_schedule(data, **asked)
    nbeta = default_nbeta(count_examples(data)) if nbeta is None else nbeta
    first = _first_sound(checkpoints)
    posterior = LocalPosterior(loss, first, nbeta, gamma)
    validate(posterior, sampler, data, schedule)
    block_size = block_size or _fitting_block(first, num_chains, len(checkpoints.steps))
    manifest = describe_sweep(key, posterior, data, checkpoints, sampler, schedule, block_size, title)
    folder = Store(store) if store is not None else None
    with folder.locked() if folder else nullcontext():
        if folder:
            manifest = agree(folder, manifest)
        block_size = manifest["block_size"]
        job = _Job(key, posterior, data, sampler, schedule, block_size, metrics or {})
        results = _Results(folder)
        num_lanes = math.ceil(len(checkpoints.steps) / block_size) * block_size * num_chains
        with progress_bar(num_lanes, schedule.num_steps, progress) as bar:
            for block in _blocks(checkpoints, block_size):
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
            return _sound(checkpoints.load(step))
        except CheckpointError as error:
            failed = failed or error
    raise CheckpointError(f"none of the {len(checkpoints.steps)} checkpoints can be used; the first: {failed}")


def _sound(params: Params) -> Params:
    """The parameters as chains need them, or why they cannot be."""
    try:
        return as_float32(params)
    except (TypeError, ValueError) as error:
        raise CheckpointError(str(error)) from error


def _fitting_block(params: Params, num_chains: int, num_checkpoints: int) -> int:
    """As many checkpoints as keep the chains under BLOCK_BYTES, in blocks of about equal size."""
    lane = COPIES * sum(np.size(w) * 4 for w in jax.tree.leaves(params))
    most = max(1, min(MAX_BLOCK, BLOCK_BYTES // (lane * num_chains)))
    return math.ceil(num_checkpoints / math.ceil(num_checkpoints / most))


Block = list[tuple[int, Params | CheckpointError]]


def _blocks(checkpoints: Source, size: int) -> Iterator[Block]:
    """All checkpoints in order, `size` at a time; the next are read while the caller samples these."""
    block: Block = []
    for entry in read_ahead(checkpoints, checkpoints.steps, depth=size):
        block.append(entry)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


@dataclass(frozen=True)
class _Job:
    """What is the same for every block."""

    key: RngKey
    posterior: LocalPosterior
    data: Batch
    sampler: Sampler | None
    schedule: Schedule
    block_size: int
    metrics: Mapping[str, Metric]

    def run(self, block: Block, results: "_Results", bar: Bar) -> None:
        """Sample what the block has that is sound and not yet done."""
        sound = {}
        for step, params in block:
            try:
                if isinstance(params, CheckpointError):
                    raise params
                sound[step] = _sound(params)
            except CheckpointError as error:
                results.failures[step] = str(error)
                bar.say(f"step {step} failed: {error}")
        weights = {step: digest(params) for step, params in sound.items()}
        missing = {step for step in sound if not results.recall(step, weights[step])}
        if not missing:
            bar.advance(self.block_size * self.schedule.num_chains * self.schedule.num_steps)
            return
        for step, unit in self._sample([step for step, _ in block], sound, bar):
            if step in missing:
                results.add(step, {**unit, "weights": np.asarray(weights[step])})

    def _sample(self, steps: list[int], sound: Mapping[int, Params], bar: Bar) -> Iterator[tuple[int, Unit]]:
        """Places without a sound checkpoint are filled with a sound one, whose lanes are dropped."""
        filler = next(iter(sound))
        slots = [step if step in sound else filler for step in steps]
        slots += [filler] * (self.block_size - len(slots))
        anchors = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(sound[step] for step in slots))
        posterior = self.posterior.replace(anchor=anchors)
        sampler = self._calibrated(posterior, np.asarray(slots)) if self.sampler is None else self.sampler
        posteriors, trace = sample_block(
            self.key, posterior, np.asarray(slots), sampler, self.data, self.schedule, on_chunk=bar.advance
        )
        stacked = {
            "anchor_loss": posteriors.anchor_loss,
            "step_size": np.broadcast_to(np.float32(sampler.step_size), len(slots)),
            **{OBSERVED + name: values for name, values in trace.items()},
            **{METRIC + name: _evaluate(metric, anchors, self.data) for name, metric in self.metrics.items()},
        }
        whole = jax.device_get(stacked)
        for slot, step in enumerate(steps):
            if step in sound:
                yield step, {name: values[slot] for name, values in whole.items()}

    def _calibrated(self, posterior: LocalPosterior, steps: Int[np.ndarray, " checkpoint"]) -> Sampler:
        """One rule for the whole sweep, which gives every checkpoint the step that its own curvature allows."""
        pilot_key = jax.random.fold_in(self.key, 2**32 - 1)
        return default_sampler(
            step_size(curvature_met(pilot_key, posterior, steps, self.data, self.schedule.batch_size))
        )


@partial(jax.jit, static_argnums=0)
def _evaluate(metric: Metric, anchors: Params, data: Batch) -> Array:
    return jax.vmap(metric, in_axes=(0, None))(anchors, data)


class _Results:
    """What is known so far, in memory and, if there is a folder, on disk."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self.units: dict[int, Unit] = {}
        self.failures: dict[int, str] = {}

    def recall(self, step: int, weights: str) -> bool:
        """Whether the step is done already; refuses if its weights have changed since."""
        unit = self._store.read(step) if self._store else None
        if unit is None:
            return False
        if str(unit["weights"]) != weights:
            raise StoreError(
                f"the weights of step {step} have changed since they were sampled; choose another store for the new run"
            )
        self.units[step] = unit
        return True

    def add(self, step: int, unit: Unit) -> None:
        self.units[step] = unit
        if self._store:
            self._store.write(step, unit)
