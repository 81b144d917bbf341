"""A block of checkpoints: which are sound, which are missing, and sampling those in one compiled program."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from sltjax.calibration import default_rule
from sltjax.checkpoints import CheckpointError, Source, digest, read_ahead
from sltjax.heat import sample_judged
from sltjax.posterior import LocalPosterior
from sltjax.results import METRIC, OBSERVED
from sltjax.sampling import condition_all
from sltjax.schedule import Schedule
from sltjax.store import DamagedUnitError, Store, StoreError, Unit
from sltjax.sweeps.manifest import Metric
from sltjax.sweeps.progress import Bar
from sltjax.types import Batch, Params, RngKey, Sampler
from sltjax.validation import as_float32

Block = list[tuple[int, Params | CheckpointError]]


def in_blocks(checkpoints: Source, size: int) -> Iterator[Block]:
    """All checkpoints in order, `size` at a time; the next are read while the caller samples these."""
    block: Block = []
    for entry in read_ahead(checkpoints, checkpoints.steps, depth=size):
        block.append(entry)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


def sound(params: Params) -> Params:
    """The parameters as chains need them, or why they cannot be."""
    try:
        return as_float32(params)
    except (TypeError, ValueError) as error:
        raise CheckpointError(str(error)) from error


class Results:
    """What is known so far, in memory and, if there is a folder, on disk."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self.units: dict[int, Unit] = {}
        self.failures: dict[int, str] = {}

    def recall(self, step: int, weights: str, bar: Bar) -> bool:
        """Whether the step is done already; refuses if its weights have changed since."""
        try:
            unit = self._store.read(step) if self._store else None
        except DamagedUnitError as error:
            bar.say(f"{error}: sampling step {step} again")
            return False
        if unit is None:
            return False
        if str(unit["weights"]) != weights:
            raise StoreError(
                f"the weights of step {step} have changed since they were sampled; choose another store for the new run"
            )
        self.units[step] = unit
        return True

    def add(self, step: int, unit: Unit) -> None:
        """Keep what was sampled at a step."""
        self.units[step] = unit
        if self._store:
            self._store.write(step, unit)


@dataclasses.dataclass(frozen=True)
class Job:
    """What is the same for every block."""

    key: RngKey
    posterior: LocalPosterior
    data: Batch
    sampler: Sampler | None
    heat: float  # the share of λ̂ that batch noise may add
    schedule: Schedule
    block_size: int
    metrics: Mapping[str, Metric]

    def run(self, block: Block, results: Results, bar: Bar) -> None:
        """Sample what the block has that is sound and not yet done."""
        usable = {}
        for step, params in block:
            try:
                if isinstance(params, CheckpointError):
                    raise params
                usable[step] = sound(params)
            except CheckpointError as error:
                results.failures[step] = str(error)
                bar.say(f"step {step} failed: {error}")
        weights = {step: digest(params) for step, params in usable.items()}
        missing = {step for step in usable if not results.recall(step, weights[step], bar)}
        if not missing:
            bar.advance(self.block_size * self.schedule.num_chains * self.schedule.num_steps)
            return
        for step, unit in self._sample([step for step, _ in block], usable, bar):
            if step in missing:
                results.add(step, {**unit, "weights": np.asarray(weights[step])})

    def _sample(self, steps: list[int], usable: Mapping[int, Params], bar: Bar) -> Iterator[tuple[int, Unit]]:
        """Places without a sound checkpoint are filled with a sound one, whose lanes are dropped."""
        filler = next(iter(usable))
        slots = [step if step in usable else filler for step in steps]
        slots += [filler] * (self.block_size - len(slots))
        anchors = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(usable[step] for step in slots))
        posteriors = condition_all(self.posterior.at(anchors), self.data, self.schedule.batch_size)
        sampler = self._calibrated(posteriors, np.asarray(slots)) if self.sampler is None else self.sampler
        trace = sample_judged(
            self.key, posteriors, np.asarray(slots), sampler, self.data, self.schedule, on_chunk=bar.advance
        )
        stacked = {
            "anchor_loss": posteriors.anchor_loss,
            "acceptance": trace.pop("acceptance").mean(axis=(1, 2)),
            **({"heat": trace.pop("heat")} if "heat" in trace else {}),
            **{OBSERVED + name: values for name, values in trace.items()},
            **{METRIC + name: _evaluate(metric, anchors, self.data) for name, metric in self.metrics.items()},
        }
        whole = jax.device_get(stacked)
        for slot, step in enumerate(steps):
            if step in usable:
                yield step, {name: _storable(np.asarray(values[slot])) for name, values in whole.items()}

    def _calibrated(self, posteriors: LocalPosterior, steps: Int[np.ndarray, " checkpoint"]) -> Sampler:
        """One rule for the whole sweep, which gives every checkpoint the start that its own curvature allows."""
        pilot_key = jax.random.fold_in(self.key, 2**32 - 1)
        return default_rule(pilot_key, posteriors, steps, self.data, self.schedule.batch_size).make(self.heat)


@partial(jax.jit, static_argnums=0)
def _evaluate(metric: Metric, anchors: Params, data: Batch) -> Array:
    return jax.vmap(metric, in_axes=(0, None))(anchors, data)


def _storable(values: np.ndarray) -> np.ndarray:
    """Files know no bfloat16, nor its smaller kin."""
    return values.astype(np.float32) if values.dtype.kind == "V" else values
