"""What a sweep is asked to be: checked before anything is spent, described, calibrated, cut into blocks.

Checkpoints are cut into blocks by their place in the listing, whatever is done already or turns out broken, and
every block runs the same compiled program. So a run that was stopped and started again samples each checkpoint
beside the same neighbours, and writes the same bytes.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np
from jax.sharding import Mesh

from sltjax import columns, fingerprint
from sltjax.calibration import HEAT, Asked, Calibration, Stack, choose, settle
from sltjax.checkpoints import CheckpointError, Source, digest
from sltjax.devices import Devices, Partition, make_mesh, place, replicate
from sltjax.posterior import LocalPosterior, default_nbeta
from sltjax.results import check_names
from sltjax.rules import Pace
from sltjax.sampling import DEFAULT_OBSERVABLES, condition_all
from sltjax.schedule import Schedule
from sltjax.store import Shard
from sltjax.sweeps.blocks import COPIES, Job, sound
from sltjax.sweeps.manifest import Manifest, Metric, describe_asked, describe_part
from sltjax.threefry import as_threefry
from sltjax.types import Batch, Loss, Observable, Params, RngKey, Sampler
from sltjax.validation import count_examples

MAX_BLOCK = 64
MAX_BLOCK_OF_A_CORE = 8  # where cores are devices: of more, their caches hold less, and steps take a half longer
BLOCK_BYTES = 2**30


@dataclass(frozen=True)
class Setup:
    """A sweep before it starts.

    Attributes:
        key: its key.
        posterior: loss, nβ and γ, around the first checkpoint that is sound.
        checkpoints: where from.
        data: shared by all lanes.
        asked: what is settled of the numerics.
        batch_size: examples a step.
        cost: FLOPs of the gradient at one example.
        metrics: name -> what is evaluated at each checkpoint.
        observables: name -> what is recorded at each draw.
        diagnostics: what is made of that, as `columns.settle` settles it.
        block_size: checkpoints a block.
        devices: sizes of the mesh, as `devices.make_mesh` takes them.
        partition: of the parameters, along "model".
        title: for plots and reports.
    """

    key: RngKey
    posterior: LocalPosterior
    checkpoints: Source
    data: Batch
    asked: Asked
    batch_size: int
    cost: float
    metrics: Mapping[str, Metric]
    observables: Mapping[str, Observable]
    diagnostics: columns.Asked
    block_size: int
    devices: Devices
    partition: Partition | None
    title: str

    @cached_property
    def mesh(self) -> Mesh | None:
        """The devices, if there are several."""
        return make_mesh(self.devices)

    def describe(self) -> Manifest:
        """Everything about it that is settled before calibration, as plain data."""
        anchor, start = self.posterior.anchor, self.posterior.start
        part = {} if self.posterior.select is None else {"part": describe_part(self.posterior.select, start)}
        return {
            "title": self.title,
            "source": self.checkpoints.name,
            "skipped": [[skipped.name, skipped.reason] for skipped in self.checkpoints.skipped],
            "definition": {
                "loss": fingerprint.of_loss(self.posterior, self.data),
                "data": {"num_examples": count_examples(self.data), "digest": digest(self.data)},
                "nbeta": float(self.posterior.nbeta),
                "gamma": float(self.posterior.gamma),
                **part,
            },
            "numerics": {**describe_asked(self.asked), "batch_size": self.batch_size},
            "metrics": fingerprint.of_metrics(self.metrics, anchor, self.data),
            "observables": fingerprint.of_observables(self.observables, self.posterior),
            "diagnostics": self.diagnostics,
            "block_size": self.block_size,
            "key": fingerprint.of_key(self.key),
            "versions": fingerprint.versions(),
        }

    def calibrate(self) -> Calibration:
        """One schedule for all checkpoints, from the first, the middle and the last that are sound.

        Every process does the same on a device of its own, unless the model is spread over several.
        """
        steps = self.checkpoints.steps
        few = {}
        for step in (steps[0], steps[len(steps) // 2], steps[-1]):
            with suppress(CheckpointError):
                few[step] = sound(self.checkpoints.load(step))
        few = few or {0: self.posterior.anchor}
        mesh = None if self.partition is None else self.mesh
        along = mesh.shape["checkpoint"] if mesh else 1
        slots = np.resize(list(few), math.ceil(len(few) / along) * along)
        stack = jax.tree.map(lambda *leaves: np.stack(leaves), *(few[int(step)] for step in slots))
        anchors, data = place(stack, mesh, self.partition), replicate(self.data, mesh)
        posteriors = condition_all(self.posterior.at(anchors), data, self.batch_size)
        pilot_key = jax.random.fold_in(as_threefry(self.key), 2**32 - 2)
        return choose(pilot_key, Stack(posteriors, slots, data, self.asked, self.batch_size, self.cost, mesh))

    def job(self, manifest: Manifest) -> Job:
        """What every block is sampled by, once that is settled."""
        return Job(
            self.key,
            self.posterior,
            self.data,
            self.asked.sampler,
            HEAT * self.asked.error,
            Pace(**manifest["pace"]),
            Schedule(**manifest["schedule"]),
            manifest["block_size"],
            self.metrics,
            self.observables,
            self.devices,
            self.partition,
        )

    def blocks(self, size: int, shard: Shard | None = None) -> Sequence[Sequence[int]]:
        """The steps in blocks, or every Nth of these from the ith."""
        index, count = shard or (0, 1)
        steps = self.checkpoints.steps
        return [steps[first : first + size] for first in range(0, len(steps), size)][index::count]


def prepare(
    key: RngKey,
    loss: Loss,
    checkpoints: Source,
    data: Batch,
    *,
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
    title: str = "",
) -> Setup:
    """Check what `sltjax.sweep` was given, which says what each argument is.

    Raises:
        ValueError, TypeError: an argument that cannot work; the message says what would.
        CheckpointError: no checkpoint can be used.
    """
    metrics, observables = metrics or {}, {**DEFAULT_OBSERVABLES, **(observables or {})}
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be at least 1 (it is a number of checkpoints), got {block_size}")
    mesh = make_mesh(devices)
    first = first_sound(checkpoints)
    nbeta = default_nbeta(count_examples(data)) if nbeta is None else nbeta
    posterior = LocalPosterior(loss, first, nbeta, gamma, select=select)
    probe_key = jax.random.fold_in(as_threefry(key), 2**32 - 3)
    asked_for, recorded, evaluated = columns.settle(probe_key, diagnostics, posterior, data, observables)
    check_names([*metrics, *evaluated, *(name for name in observables if name not in DEFAULT_OBSERVABLES)])
    metrics, observables = {**metrics, **evaluated}, {**observables, **recorded}
    chains = _fitting_chains(num_chains, mesh)
    asked = Asked(sampler, chains, num_draws, burn_in, thin, batch_size, error, max_chain_steps)
    size, cost = settle(asked, posterior, data)
    copies = COPIES * (chains or 4) + sum(metric.copies for metric in evaluated.values())
    width = _fitting_block(posterior.start, copies, len(checkpoints.steps), mesh, block_size)
    return Setup(
        key,
        posterior,
        checkpoints,
        data,
        asked,
        size,
        cost,
        metrics,
        observables,
        asked_for,
        width,
        devices,
        partition,
        title,
    )


def first_sound(checkpoints: Source) -> Params:
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


def _fitting_chains(asked: int | None, mesh: Mesh | None) -> int | None:
    """Chains that fill the devices along "chain"; None leaves it to calibration, where there is but one.

    Raises:
        ValueError: the number asked for does not.
    """
    along = mesh.shape["chain"] if mesh else 1
    if asked is not None and asked % along:
        raise ValueError(f"num_chains: got {asked}, expected a multiple of the {along} devices along chain")
    return along * math.ceil(4 / along) if asked is None and along > 1 else asked


def _fitting_block(params: Params, copies: int, num_checkpoints: int, mesh: Mesh | None, asked: int | None) -> int:
    """As many checkpoints, of so many copies of the parameters each, as keep a device under BLOCK_BYTES and its most.

    In blocks of about equal size. A multiple of the devices along "checkpoint", whatever was asked for.
    """
    along = mesh.shape["checkpoint"] if mesh else 1
    if asked is None:
        size = copies * sum(np.size(w) * 4 for w in jax.tree.leaves(params))
        memory = BLOCK_BYTES * (mesh.size if mesh else 1)
        of_cores = mesh is not None and mesh.devices.flat[0].platform == "cpu"
        most = max(1, min((MAX_BLOCK_OF_A_CORE if of_cores else MAX_BLOCK) * along, memory // size))
        asked = math.ceil(num_checkpoints / math.ceil(num_checkpoints / most))
    return math.ceil(asked / along) * along
