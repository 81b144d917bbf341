"""`Monitor`: a few lines in a training loop, and λ̂ beside the loss.

All work is done in a thread of its own, which the training waits for or, where chains have a device of their own, does
not. That thread knows nothing of the meshes, default devices and precisions that are set around the training step.
"""

import dataclasses
import logging
import math
import operator
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr

from sltjax.calibration import Calibration
from sltjax.checkpoints import CheckpointError, from_memory
from sltjax.development import stages
from sltjax.devices import fetch, mesh_around, one_device
from sltjax.monitoring.budget import Budget
from sltjax.monitoring.record import Record, scalars_of
from sltjax.monitoring.saving import SavePolicy
from sltjax.monitoring.steps import Due
from sltjax.monitoring.writers import Scalars, writing
from sltjax.results import check_size
from sltjax.store import Store, StoreError
from sltjax.sweeps.blocks import Job
from sltjax.sweeps.manifest import Metric
from sltjax.sweeps.run import settled
from sltjax.sweeps.setup import prepare
from sltjax.types import Batch, Loss, Params, RngKey
from sltjax.validation import count_examples

SETTINGS = (
    *("nbeta", "gamma", "select", "sampler", "num_chains", "num_draws", "burn_in", "thin", "batch_size"),
    *("error", "max_chain_steps"),
)

_USERS = (ValueError, TypeError, StoreError, CheckpointError)
"""What is the user's to mend: said in a sentence, without a traceback."""

log = logging.getLogger(__name__)


class Monitor:
    """Measures λ̂ while a training goes on, and cannot hurt it.

        monitor = sltjax.Monitor(sltjax.behavioral_loss(apply), data, every=500)
        for step in range(num_steps):
            params, opt_state = update(params, opt_state, batch)
            scalars = monitor(step, params)  # None, or {"llc": 41.2, "llc_std_error": 0.6, "ok": 1.0, ...}

    In the middle of training weights are no minimum of the training loss, and λ̂ of that loss means nothing: pass
    `behavioral_loss(apply)`, which measures each checkpoint from its own outputs. What is not among `params`, such as
    batch statistics, is for the loss what it was when the loss was made; pass it along, and let chains move the rest:
    `monitor(step, {"params": params, "batch_stats": stats})` with `settings={"select": lambda p: p["params"]}`.

    The first call calibrates and compiles, every later one runs the same programs. Keys, parameters and their buffers
    stay as they are: the monitor copies parameters before it returns, so that the next step may take their memory, and
    draws with a key of its own. What goes wrong is logged by `logging`, under "sltjax", and the training goes on.

    Parameters that a mesh holds are sampled on that mesh, lying as they lie, and the chains along its other axes.

    Calls are due on a grid of steps; one that would break the budget is left out, so that the interval stretches.

    Args:
        loss: per-example losses (params, batch) -> [batch].
        data: pytree of arrays [n, ...].
        every: measure at multiples of so many steps;
        at: or at these, such as `sltjax.monitoring.log_spaced(100_000, 60)`.
        settings: by the names that `sweep` has for them, nbeta, gamma and select, which define the number, and sampler,
            num_chains, num_draws, burn_in, thin, batch_size, error and max_chain_steps; or what `calibrate` chose. What
            is left out is calibrated at the first call.
        writer: where scalars go, as `writers.writing` says: of CLU, Weights & Biases, TensorBoard, or the like.
        store: a folder for the results, which `sltjax report` reads, and from which the monitor of a training that is
            started again goes on: a step measured before is taken from there, and where a step comes again with other
            weights, what is there stays and the error is logged.
        budget: the share of the wall time that may be spent, everything included; None for no limit.
        device: where chains run while the training goes on elsewhere; None: where the parameters are, and the training
            waits. What is found beside the training is returned, and written, at the next call after.
        key: of the monitor; None for one that is always the same.
        metrics: name -> function (params, data) -> array, evaluated at each measured step. One named "loss" tells
            `stages` of the training loss.
        strict: whether to raise what would be logged.
        prefix: before the names that a writer sees.
        title: for plots and reports.

    Attributes:
        budget: the account: seconds `spent`, of which `first` with compilation, `overhead`, `measured`, `skipped`.
        found: step -> the numbers measured there, those in the store included.

    Raises:
        ValueError, TypeError: an argument that cannot work; the message says what would.
        StoreError: another process or monitor has the store.
    """

    def __init__(
        self,
        loss: Loss,
        data: Batch,
        *,
        every: int | None = None,
        at: Sequence[int] | None = None,
        settings: Calibration | Mapping[str, Any] | None = None,
        writer: Any = None,
        store: str | Path | None = None,
        budget: float | Budget | None = 0.05,
        device: jax.Device | None = None,
        key: RngKey | None = None,
        metrics: Mapping[str, Metric] | None = None,
        strict: bool = False,
        prefix: str = "slt/",
        title: str = "",
    ) -> None:
        count_examples(data)
        if jax.process_count() > 1:
            raise ValueError(
                f"got {jax.process_count()} processes, expected one: sweep over the checkpoints of this run"
            )
        given = settings.settings if isinstance(settings, Calibration) else settings or {}
        self._settings = {name: value for name, value in given.items() if value is not None}
        if unknown := sorted(set(self._settings) - set(SETTINGS)):
            raise ValueError(f"settings: got {unknown}, expected some of {', '.join(SETTINGS)}")
        self.budget = budget if isinstance(budget, Budget) else Budget(budget)
        self._loss, self._metrics, self._title = loss, metrics or {}, title
        self._data = data if device is None else jax.tree.map(np.asarray, data)
        self._key = jax.random.key(0) if key is None else key
        self._due, self._write = Due(every, at), writing(writer, prefix)
        self._device, self._strict = device, strict
        self._job: Job | None = None
        self._record: Record | None = None
        self._underway: _Visit | None = None
        self._is_off, self._now = False, 0
        self.found: dict[int, Scalars] = {}
        self._held = ExitStack()
        self._store = None if store is None else Store(store)
        if self._store:
            self._held.enter_context(self._store.locked())
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="sltjax-monitor")

    def __call__(self, step: SupportsIndex, params: Params) -> Scalars | None:
        """Measure, if it is time to.

        Args:
            step: of the training; a Python number, since an array on a device would be waited for at every call.
            params: like those at every other call; copied, where they are measured.

        Returns:
            `llc`, `llc_std_error`, `rhat`, `ess`, `drift`, `acceptance`, `ok` (1 or 0) and scalar metrics; `step`, of
            which they are; `seconds` that they took; `overhead`, the monitor's share of all the time. None if nothing
            was measured, or nothing has become known since the last call.
        """
        if self._is_off and self._underway is None:
            return None
        try:
            _refuse_traced(step)
            return self._visit(operator.index(step), params)
        except Exception as error:
            if self._strict:
                raise
            self._tell(f"step {step} could not be measured, and the training goes on", error)
            return None

    def _visit(self, step: int, params: Params) -> Scalars | None:
        self._now = step
        self.budget.start()
        found = self._collect() if self._underway and self._underway.future.done() else None
        if self._is_off or not self._due(step):
            return found
        if self._underway or not self.budget.affords():
            self.budget.skipped += 1
            return found
        if self._device is None:
            jax.block_until_ready(params)  # that time is the training's
        with self.budget.charged():
            copied = jax.tree.map(_copied, params)
            self._underway = visit = _Visit(step, competes=self._device in _devices(params))
            visit.future = self._worker.submit(self._measure, visit, copied)
            if self._device is None:
                found = self._collect()
        if self.budget.measured == 1:
            self.budget.expected = min(self.budget.expected, 2 * visit.sampling_seconds)
        return found

    def _collect(self) -> Scalars | None:
        """Wait for what is underway, and hand its numbers on."""
        visit, self._underway = self._underway, None
        if visit is None:
            return None
        try:
            scalars = visit.future.result()
        finally:
            visit.is_stopped = True  # an interrupt ends the wait, and then the chains
            if visit.competes:
                self.budget.charge(visit.seconds)
        scalars = {**scalars, "step": float(visit.step), "seconds": visit.seconds, "overhead": self.budget.overhead}
        try:
            self._write(visit.step, self._now, scalars)
        except Exception as error:
            if self._strict:
                raise
            self._tell(f"step {visit.step} was measured, and the writer did not take it", error)
        return scalars

    def _measure(self, visit: "_Visit", params: Params) -> Scalars:
        """In the monitor's own thread."""
        began = time.perf_counter()
        try:
            weights = fetch(params)
            if self._job is None:
                self._begin(visit.step, params, weights)
            return self._sample(visit, weights)
        except _USERS as error:
            if self._job is None:
                self._is_off = True
                log.error("the monitor is off for the rest of this training: %s", error)
            raise
        finally:
            visit.seconds = time.perf_counter() - began

    def _begin(self, step: int, params: Params, weights: Params) -> None:
        """Settle what is the same at every step: by the store, if it was begun, else by calibration."""
        if self._device is None:
            mesh, partition = mesh_around(params, self._settings.get("num_chains"))
        else:
            mesh, partition = one_device(self._device), None
        self._home = mesh.devices.flat[0]
        with jax.default_device(self._home):
            setup = prepare(
                self._key,
                self._loss,
                dataclasses.replace(from_memory([(step, weights)]), name="a training, as it went on"),
                self._data,
                metrics=self._metrics,
                block_size=1,
                devices=mesh,
                partition=partition,
                title=self._title,
                **self._settings,
            )
            manifest = settled(setup, self._store)
            job = setup.job(manifest)
            check_size(job.observables, setup.posterior, job.schedule)
            self._record = Record(self._store, manifest)
        self.found |= {step: scalars_of(row, self._metrics) for step, row in self._record.rows.items()}
        self._job = job

    def _sample(self, visit: "_Visit", weights: Params) -> Scalars:
        assert self._job is not None
        assert self._record is not None
        with jax.default_device(self._home):
            for step, outcome in self._job.outcomes([(visit.step, weights)], self._record.known, visit):
                self._record.add(step, outcome)
        row = self._record.rows[visit.step]
        scalars, said = scalars_of(row, self._metrics), str(row["verdict"][1])
        self.found[visit.step] = scalars
        if row["status"][1] == "failed":
            raise CheckpointError(said)
        if said:
            log.info("step %d: %s", visit.step, said)
        return scalars

    def _tell(self, what: str, error: Exception) -> None:
        log.error("%s: %s", what, error, exc_info=None if isinstance(error, _USERS) else error)

    def dataset(self) -> xr.Dataset:
        """What was measured so far, as `sweep` returns it, without the draws; those are in the store.

        Raises:
            ValueError: nothing was.
        """
        if self._record is None:
            raise ValueError("nothing has been measured yet")
        return self._record.dataset()

    def stages(self, **options: Any) -> pd.DataFrame:
        """The stages of the training so far.

        Args:
            options: as `sltjax.stages` takes them.

        Raises:
            ValueError: nothing has been measured yet.
        """
        return stages(self.dataset(), **options)

    def saves(self, longest: int, shortest: int = 1, change: float = 0.05) -> SavePolicy:
        """A policy for `orbax.checkpoint.CheckpointManagerOptions(save_decision_policy=...)`: dense where λ̂ moves.

        Args:
            longest: steps between checkpoints where λ̂ rests.
            shortest: steps between them where it moves.
            change: the least move, as a share of λ̂.
        """
        return SavePolicy(self.found, longest, shortest, change)

    def close(self) -> None:
        """Wait for what is underway, write it, and let the store go; called at the end of a `with`."""
        try:
            self._collect()
        except Exception as error:
            if self._strict:
                raise
            self._tell("the last measurement failed", error)
        finally:
            self._is_off = True
            self._worker.shutdown()
            self._held.close()

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class _Stopped(Exception):
    """Nobody waits for this measurement any more."""


@dataclasses.dataclass
class _Visit:
    """A measurement on its way; it is also what the work is reported to."""

    step: int
    competes: bool
    future: Future[Scalars] = dataclasses.field(default_factory=Future)
    seconds: float = 0.0
    is_stopped: bool = False
    ticks: list[float] = dataclasses.field(default_factory=list)

    @property
    def sampling_seconds(self) -> float:
        """What sampling takes once it is compiled, as it is after the first chunk; infinite if that is unknown."""
        chunks = len(self.ticks)
        return math.inf if chunks < 2 else (self.ticks[-1] - self.ticks[0]) * chunks / (chunks - 1)

    def advance(self, chain_steps: int) -> None:
        """Told after every chunk of draws."""
        self.ticks.append(time.perf_counter())
        if self.is_stopped:
            raise _Stopped(f"step {self.step}: interrupted")

    def skip(self, chain_steps: int) -> None:
        """Told of chunks that are known."""

    def say(self, message: str) -> None:
        """Told what a user should know."""
        log.info("%s", message)


def _copied(leaf: Any) -> Any:
    """On the device, in the order of its work: before the next step takes the buffer."""
    _refuse_traced(leaf)
    return jnp.copy(leaf) if isinstance(leaf, jax.Array) else np.array(leaf)


def _refuse_traced(value: Any) -> None:
    if isinstance(value, jax.core.Tracer):
        raise TypeError("the monitor was called within jit; call it between steps, or use sltjax.llc_fn there")


def _devices(params: Params) -> set[jax.Device]:
    return {device for x in jax.tree.leaves(params) if isinstance(x, jax.Array) for device in x.devices()}
