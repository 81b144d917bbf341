"""A block of checkpoints: which are sound, which are missing, and sampling those in one compiled program."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from sltjax.checkpoints import CheckpointError, Source, digest, read_ahead
from sltjax.devices import Devices, Partition, fetch, make_mesh, place, replicate, tell
from sltjax.heat import sample_judged
from sltjax.posterior import LocalPosterior
from sltjax.results import METRIC, OBSERVED
from sltjax.rules import Pace, default_rule
from sltjax.sampling import condition_all
from sltjax.schedule import Schedule
from sltjax.store import StoreError, Unit
from sltjax.sweeps.manifest import Metric
from sltjax.sweeps.progress import Report
from sltjax.threefry import as_threefry, portable
from sltjax.types import Batch, Observable, Params, RngKey, Sampler
from sltjax.validation import as_float32

COPIES = 6  # parameter-sized arrays a lane holds at once: state, gradient, noise, and what XLA keeps beside them

Block: TypeAlias = Sequence[tuple[int, Params | CheckpointError]]

Outcome: TypeAlias = Unit | CheckpointError

Known: TypeAlias = Callable[[int], str | None]
"""step -> digest of the weights around which it has been sampled already; None if it has not."""


def in_blocks(checkpoints: Source, blocks: Sequence[Sequence[int]]) -> Iterator[Block]:
    """The checkpoints of each block; the next are read while the caller samples these."""
    steps = [step for block in blocks for step in block]
    coming = read_ahead(checkpoints, steps, depth=max(map(len, blocks), default=1))
    for block in blocks:
        yield [next(coming) for _ in block]


def sound(params: Params) -> Params:
    """The parameters as chains need them, or why they cannot be."""
    try:
        return as_float32(params)
    except (TypeError, ValueError) as error:
        raise CheckpointError(str(error)) from error


@dataclasses.dataclass
class Job:
    """What is the same for every block; it may be sent to another machine.

    Attributes:
        key: the key of the whole sweep.
        posterior: loss, nβ and γ.
        data: shared by all lanes.
        sampler: None for the rule that `calibrate` chooses by.
        heat: the share of λ̂ that batch noise may add.
        pace: how much slower chains go than a look near the anchor suggests.
        schedule: lengths and sizes.
        block_size: checkpoints a block.
        metrics: name -> what is evaluated at each checkpoint.
        observables: name -> what is recorded at each draw.
        devices: sizes of the mesh, as `devices.make_mesh` takes them.
        partition: of the parameters, along "model".
        width: checkpoints sampled at once: a block, or what of it the memory holds.
    """

    key: RngKey
    posterior: LocalPosterior
    data: Batch
    sampler: Sampler | None
    heat: float
    pace: Pace
    schedule: Schedule
    block_size: int
    metrics: Mapping[str, Metric]
    observables: Mapping[str, Observable]
    devices: Devices = None
    partition: Partition | None = None
    width: int = 0

    def __post_init__(self) -> None:
        self.width = self.width or self.block_size

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to the devices of one machine."""
        kept = {name: value for name, value in vars(self).items() if name not in ("mesh", "placed_data")}
        return {**kept, "key": portable(self.key), "data": jax.tree.map(np.asarray, self.data)}

    @cached_property
    def mesh(self) -> Mesh | None:
        """The devices of this machine, or of all that work as one."""
        return make_mesh(self.devices)

    @cached_property
    def placed_data(self) -> Batch:
        """The data, on all of them."""
        return replicate(self.data, self.mesh)

    @property
    def num_slots(self) -> int:
        """The width, filled up so that devices share it evenly."""
        along = self.mesh.shape["checkpoint"] if self.mesh else 1
        return math.ceil(self.width / along) * along

    def outcomes(self, block: Block, known: Known, report: Report) -> Iterator[tuple[int, Outcome]]:
        """Sample what the block has that is sound and not yet known; (step, what came of it) for these.

        Raises:
            StoreError: a step was sampled around other weights.
        """
        usable = {}
        for step, params in block:
            try:
                if isinstance(params, CheckpointError):
                    raise params
                usable[step] = sound(params)
            except CheckpointError as error:
                yield step, error
        weights = {step: digest(params) for step, params in usable.items()}
        missing = set(tell([step for step in usable if not _is_done(step, known(step), weights[step])]))
        steps = [step for step, _ in block]
        first = 0
        while first < len(steps):
            part = steps[first : first + self.width]
            if missing.intersection(part):
                units = self._sample(part, usable, report)
                if units is None:  # too wide for the memory: the same again, with less at once
                    continue
                for step in missing.intersection(part):
                    yield step, {**units[step], "weights": np.asarray(weights[step])}
            else:
                report.skip(self.width * self.schedule.num_chains * self.schedule.num_steps)
            first += self.width

    def _sample(self, steps: Sequence[int], usable: Mapping[int, Params], report: Report) -> dict[int, Unit] | None:
        """Sample `width` checkpoints at once; None if the memory holds fewer, to which the width is set."""
        spent = 0

        def advance(chain_steps: int) -> None:
            nonlocal spent
            spent += chain_steps
            report.advance(chain_steps)

        try:
            return self._sample_at_once(steps, usable, advance)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            least = self.mesh.shape["checkpoint"] if self.mesh else 1
            if self.width <= least:
                raise MemoryError(self._too_large(usable)) from error
            report.advance(-spent)
            self.width = max(least, self.width // 2 // least * least)
            report.say(f"out of memory: sampling {self.width} checkpoints at once from here on")
            return None

    def _too_large(self, usable: Mapping[int, Params]) -> str:
        chains = self.schedule.num_chains
        size = COPIES * chains * self.width * sum(w.nbytes for w in jax.tree.leaves(next(iter(usable.values()))))
        return (
            f"out of memory with {self.width} checkpoint × {chains} chains at once: the chains alone take some "
            f"{size / 2**20:,.0f} MiB, beside what the loss takes for {self.schedule.batch_size} examples; lower "
            "num_chains or batch_size, or spread the model over devices"
        )

    def _sample_at_once(
        self, steps: Sequence[int], usable: Mapping[int, Params], advance: Callable[[int], None]
    ) -> dict[int, Unit]:
        """Places without a sound checkpoint are filled with a sound one, whose lanes are dropped."""
        filler = next(iter(usable))
        slots = [step if step in usable else filler for step in steps]
        slots += [filler] * (self.num_slots - len(slots))
        stack = jax.tree.map(lambda *leaves: np.stack(leaves), *(usable[step] for step in slots))
        anchors = place(stack, self.mesh, self.partition)
        posteriors = condition_all(self.posterior.at(anchors), self.placed_data, self.schedule.batch_size)
        sampler = self._calibrated(posteriors, np.asarray(slots)) if self.sampler is None else self.sampler
        trace = sample_judged(
            self.key,
            posteriors,
            np.asarray(slots),
            sampler,
            self.placed_data,
            self.schedule,
            observables=self.observables,
            on_chunk=advance,
            mesh=self.mesh,
        )
        stacked = {
            "anchor_loss": posteriors.anchor_loss,
            "acceptance": trace.pop("acceptance").mean(axis=(1, 2)),
            **({"heat": trace.pop("heat")} if "heat" in trace else {}),
            **{OBSERVED + name: values for name, values in trace.items()},
            **self._evaluated(anchors),
        }
        whole = fetch(stacked)
        return {
            step: {name: _storable(np.asarray(values[slot])) for name, values in whole.items()}
            for slot, step in enumerate(steps)
            if step in usable
        }

    def _evaluated(self, anchors: Params) -> dict[str, Array]:
        """The metrics at every checkpoint; those of several arrays as name.key."""
        evaluated: dict[str, Array] = {}
        for name, metric in self.metrics.items():
            found = _evaluate(metric, anchors, self.placed_data)
            several = isinstance(found, dict)
            evaluated |= {f"{METRIC}{name}.{key}": x for key, x in found.items()} if several else {METRIC + name: found}
        return evaluated

    def _calibrated(self, posteriors: LocalPosterior, steps: Int[np.ndarray, " checkpoint"]) -> Sampler:
        """One rule for the whole sweep, which gives every checkpoint the start that its own curvature allows."""
        pilot_key = jax.random.fold_in(as_threefry(self.key), 2**32 - 1)
        rule = default_rule(pilot_key, posteriors, steps, self.placed_data, self.schedule.batch_size, self.mesh)
        return rule.make(self.heat, self.pace)


def _is_done(step: int, stored: str | None, weights: str) -> bool:
    if stored is None:
        return False
    if stored != weights:
        raise StoreError(
            f"the weights of step {step} have changed since they were sampled; choose another store for the new run"
        )
    return True


@partial(jax.jit, static_argnums=0)
def _evaluate(metric: Metric, anchors: Params, data: Batch) -> Any:
    return jax.vmap(metric, in_axes=(0, None))(anchors, data)


def _storable(values: np.ndarray) -> np.ndarray:
    """Files know no bfloat16, nor its smaller kin."""
    return values.astype(np.float32) if values.dtype.kind == "V" else values
