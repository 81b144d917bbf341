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
from jaxtyping import Array

from sltjax.calibration import Calibration, calibrate, default_schedule
from sltjax.checkpoints import CheckpointError, Source, digest, read_ahead
from sltjax.posterior import LocalPosterior, default_nbeta
from sltjax.results import METRIC, OBSERVED, to_dataset, write_dataset
from sltjax.sampling import sample_block
from sltjax.store import Store, StoreError, Unit
from sltjax.sweeps.manifest import describe_numerics, describe_sampler, describe_sweep, require_same, restore_numerics
from sltjax.sweeps.progress import Bar, progress_bar
from sltjax.types import Batch, Loss, Params, RngKey, Sampler
from sltjax.validation import as_float32, count_examples, validate

Metric = Callable[[Params, Batch], Array]
MAX_ANCHORS = 5  # checkpoints that numerics are calibrated on, evenly spaced over the run, both ends included
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
        sampler: None for a calibrated one, the same for all checkpoints.
        num_chains: chains a checkpoint.
        num_draws: recorded draws a chain; None for the default of `calibrate`, as for the three below.
        burn_in: steps before the first draw.
        thin: steps a draw.
        batch_size: examples a step.
        metrics: name -> function (params, data) -> array, evaluated at each checkpoint and kept beside λ̂. A
            metric named "loss" stands in for L_n(w*) where that is not the training loss.
        block_size: checkpoints sampled at once; None for as many as keep the chains under 1 GiB, 64 at most.
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
    nbeta = default_nbeta(count_examples(data)) if nbeta is None else nbeta
    anchors = _calibration_anchors(checkpoints)
    posterior = LocalPosterior(loss, anchors[0], nbeta, gamma)
    validate(posterior, sampler, data, default_schedule(data, **asked))
    all_asked = {**asked, "sampler": describe_sampler(sampler), "block_size": block_size}
    manifest = describe_sweep(key, posterior, data, checkpoints, all_asked, title)
    folder = Store(store) if store is not None else None
    with folder.locked() if folder else nullcontext():
        stored = folder.manifest() if folder else None
        if folder and stored:
            require_same(folder, stored, manifest)
            numerics, manifest = restore_numerics(stored["numerics"], sampler), stored
        else:
            pilot_key = jax.random.fold_in(key, 2**32 - 1)
            numerics = calibrate(pilot_key, posterior, data, anchors=anchors, sampler=sampler, **asked)
            size = block_size or _fitting_block(anchors[0], num_chains, len(checkpoints.steps))
            manifest["numerics"] = describe_numerics(numerics, size)
            if folder:
                folder.write_manifest(manifest)
        job = _Job(key, posterior, data, numerics, manifest["numerics"]["block_size"], metrics or {})
        results = _Results(folder)
        num_lanes = math.ceil(len(checkpoints.steps) / job.block_size) * job.block_size * num_chains
        with progress_bar(num_lanes, numerics.schedule.num_steps, progress) as bar:
            for block in _blocks(checkpoints, job.block_size):
                job.run(block, results, bar)
        dataset = to_dataset(checkpoints.steps, results.units, results.failures, manifest)
        if folder:
            write_dataset(dataset, folder.path / "dataset.nc")
    return dataset


def _calibration_anchors(checkpoints: Source) -> list[Params]:
    """Some checkpoints that can be loaded, evenly spaced over the run.

    Raises:
        CheckpointError: none can be; gives the reason for the first.
    """
    steps = checkpoints.steps
    some = np.unique(np.linspace(0, len(steps) - 1, MAX_ANCHORS).round().astype(int))
    failed: CheckpointError | None = None
    anchors = []
    for index in [*some, *(other for other in range(len(steps)) if other not in some)]:
        if len(anchors) == MAX_ANCHORS or (anchors and index not in some):
            break
        try:
            anchors.append(_sound(checkpoints.load(steps[index])))
        except CheckpointError as error:
            failed = failed or error
    if not anchors:
        raise CheckpointError(f"none of the {len(steps)} checkpoints can be used; the first: {failed}")
    return anchors


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
    numerics: Calibration
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
            bar.advance(self.block_size * self.numerics.schedule.num_chains * self.numerics.schedule.num_steps)
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
        posteriors, trace = sample_block(
            self.key,
            self.posterior.replace(anchor=anchors),
            np.asarray(slots),
            self.numerics.sampler,
            self.data,
            self.numerics.schedule,
            on_chunk=bar.advance,
        )
        stacked = {
            "anchor_loss": posteriors.anchor_loss,
            **{OBSERVED + name: values for name, values in trace.items()},
            **{METRIC + name: _evaluate(metric, anchors, self.data) for name, metric in self.metrics.items()},
        }
        whole = jax.device_get(stacked)
        for slot, step in enumerate(steps):
            if step in sound:
                yield step, {name: values[slot] for name, values in whole.items()}


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
                f"{self._store.path if self._store else ''}: the weights of step {step} have changed since it was sampled;"
                " choose another store for the new run"
            )
        self.units[step] = unit
        return True

    def add(self, step: int, unit: Unit) -> None:
        self.units[step] = unit
        if self._store:
            self._store.write(step, unit)
