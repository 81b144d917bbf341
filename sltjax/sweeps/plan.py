"""What a sweep will take, before anything of it is spent: checkpoints, memory, compilation, FLOPs, disk and time."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sltjax.calibration import ALL_AFFORDABLE, MAX_DRAWS, MIN_DRAWS, THIN
from sltjax.checkpoints import Skipped, Source
from sltjax.results import bytes_a_unit
from sltjax.samplers import GHMC, Newton, UnderdampedLangevin
from sltjax.sampling import bytes_on_a_device, lower_block
from sltjax.schedule import Schedule
from sltjax.store import Store
from sltjax.sweeps.blocks import Job
from sltjax.sweeps.manifest import Manifest
from sltjax.sweeps.setup import Setup, prepare
from sltjax.types import Batch, Loss, RngKey, Sampler

PROBE_SECONDS = 2.0
PROBE_DRAWS = 40
COMPILED = "/jax/core/compile/backend_compile_duration"


@dataclass(frozen=True)
class Plan:
    """What there is to do and what it takes. Where two numbers stand, lengths are not calibrated: least and most.

    Attributes:
        steps: training steps found.
        skipped: what else lies there, and why it is no checkpoint.
        done: how many of the steps the store holds already.
        num_parameters: of the model.
        num_examples: n.
        batch_size: examples a step; n means all of them.
        num_chains: chains a checkpoint.
        block_size: checkpoints sampled at once.
        num_blocks: over all steps.
        devices: what they are and how they are spread.
        chain_steps: a checkpoint's.
        flops: of all that is left to do.
        memory: bytes that the compiled program of a block takes, over all devices.
        memory_limit: bytes that the devices have; NaN where they do not say.
        programs: how many are compiled, once, whatever the number of checkpoints.
        compile_seconds: what that took here.
        disk: bytes of the whole store.
        seconds: for all that is left to do, by the speed of the probe, compilation apart.
    """

    steps: tuple[int, ...]
    skipped: tuple[Skipped, ...]
    done: int
    num_parameters: int
    num_examples: int
    batch_size: int
    num_chains: int
    block_size: int
    num_blocks: int
    devices: str
    chain_steps: tuple[float | int, ...]
    flops: tuple[float | int, ...]
    memory: int
    memory_limit: float
    programs: int
    compile_seconds: float
    disk: tuple[float | int, ...]
    seconds: tuple[float | int, ...]

    @property
    def num_lanes(self) -> int:
        """Chains over all checkpoints."""
        return len(self.steps) * self.num_chains

    @property
    def is_calibrated(self) -> bool:
        """Whether lengths are settled."""
        return len(self.chain_steps) == 1


def plan(
    key: RngKey, loss: Loss, checkpoints: Source, data: Batch, *, store: str | Path | None = None, **settings: Any
) -> Plan:
    """Look at what a sweep will take; nothing is written.

    A block of the real width is compiled and run for some seconds, so that memory and speed are those of this machine.
    Lengths are those of the store, if it has been begun (by `calibrate_sweep`, or an earlier run), or those that are
    set; else the least and the most that calibration may choose.

    Args:
        key: as for `sweep`.
        loss: as for `sweep`.
        checkpoints: as for `sweep`.
        data: as for `sweep`.
        store: the folder that the results will be kept in, or are.
        settings: as for `sweep`.

    Raises:
        ValueError, TypeError: an argument that cannot work; the message says what would.
    """
    setup = prepare(key, loss, checkpoints, data, **settings)
    folder = Store(store) if store is not None else None
    manifest = folder.manifest() if folder else None
    schedules = _schedules(setup, manifest)
    block_size = setup.block_size if manifest is None else manifest["block_size"]
    probed = _probe(setup, block_size, schedules[0])
    done = len(set(folder.steps() if folder else ()) & set(checkpoints.steps))
    num_blocks = math.ceil(len(checkpoints.steps) / block_size)
    left = num_blocks * (1 - done / len(checkpoints.steps))
    start, recorded = setup.posterior.start, (setup.observables, setup.posterior)
    lanes = block_size * schedules[0].num_chains
    gradient = setup.cost * setup.batch_size

    def of_each(number: Callable[[Schedule], float | int]) -> tuple[float | int, ...]:
        return tuple(number(schedule) for schedule in schedules)

    return Plan(
        steps=checkpoints.steps,
        skipped=tuple(checkpoints.skipped),
        done=done,
        num_parameters=sum(np.size(w) for w in jax.tree.leaves(start)),
        num_examples=len(jax.tree.leaves(data)[0]),
        batch_size=setup.batch_size,
        num_chains=schedules[0].num_chains,
        block_size=block_size,
        num_blocks=num_blocks,
        devices=_devices(setup),
        chain_steps=of_each(lambda s: s.num_steps * s.num_chains),
        flops=of_each(lambda s: left * lanes * s.num_steps * gradient),
        memory=probed.memory,
        memory_limit=_memory_limit(),
        programs=len(probed.compiled),
        compile_seconds=float(sum(probed.compiled)),
        # the units, and the Dataset made of them
        disk=of_each(lambda s: 2 * len(checkpoints.steps) * sum(bytes_a_unit(*recorded, s).values())),
        seconds=of_each(lambda s: left * (probed.seconds_a_block + s.num_steps * probed.seconds_a_step)),
    )


def _schedules(setup: Setup, manifest: Manifest | None) -> tuple[Schedule, ...]:
    """The schedule, where it is settled; else the shortest and the longest there may be."""
    if manifest is not None:
        return (Schedule(**manifest["schedule"]),)
    asked = setup.asked
    chains, thin = asked.num_chains or 4, asked.thin or THIN
    affordable = max(int(ALL_AFFORDABLE / (setup.cost * setup.batch_size)), 100 * chains)
    longest = max(4, min(MAX_DRAWS, int(0.8 * (asked.max_chain_steps or affordable) / chains / thin)))

    def schedule(num_draws: int) -> Schedule:
        burn_in = num_draws * thin // 4 if asked.burn_in is None else asked.burn_in
        return Schedule(chains, num_draws, burn_in, thin, setup.batch_size)

    if asked.num_draws is not None:
        return (schedule(asked.num_draws),)
    return schedule(min(MIN_DRAWS, longest)), schedule(longest)


@dataclass
class _Clock:
    """A report that notes when it is told of chain-steps."""

    ticks: list[float] = field(default_factory=list)

    def advance(self, chain_steps: int) -> None:
        """Note the time."""
        self.ticks.append(time.perf_counter())

    def skip(self, chain_steps: int) -> None:
        """Nothing."""

    def say(self, message: str) -> None:
        """Nothing."""


@dataclass(frozen=True)
class _Probed:
    memory: int
    compiled: tuple[float | int, ...]
    seconds_a_block: float
    seconds_a_step: float


def _probe(setup: Setup, block_size: int, schedule: Schedule) -> _Probed:
    """Sample one block for a short while, by the program of the sweep, and listen to the compiler."""
    block = [(setup.checkpoints.steps[0], setup.posterior.anchor)] * block_size
    thin = 1
    with _compilations() as compiled:
        while True:
            short = replace(schedule, num_draws=PROBE_DRAWS, burn_in=0, thin=thin)
            job = setup.job({"schedule": vars(short), "block_size": block_size, "pace": {}})
            began, clock = time.perf_counter(), _Clock()
            list(job.outcomes(block, lambda step: None, clock))
            whole = time.perf_counter() - began
            drawing = (clock.ticks[-1] - clock.ticks[0]) * len(clock.ticks) / (len(clock.ticks) - 1)
            if drawing > PROBE_SECONDS / 4:
                break
            thin = math.ceil(thin * min(100.0, PROBE_SECONDS / max(drawing, 1e-3)))
        once = tuple(compiled)
    return _Probed(_memory(setup, job, short), once, max(0.0, whole - drawing), drawing / short.num_steps)


def _memory(setup: Setup, job: Job, schedule: Schedule) -> int:
    """Over all devices, each of which holds its part."""
    what = (setup.posterior, job.num_slots, _sampler(setup), setup.data, schedule, setup.observables)
    advance = lower_block(*what, job.mesh, setup.partition)["advance"]
    return (job.mesh.size if job.mesh else 1) * bytes_on_a_device(advance.compile())


@contextmanager
def _compilations() -> Iterator[list[float]]:
    """Collects how long each program took to compile. Listeners cannot be taken back, so this one goes deaf."""
    compiled: list[float] = []
    listening = True

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if listening and event == COMPILED:
            compiled.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        listening = False


def _sampler(setup: Setup) -> Sampler:
    """One of the kind that will run."""
    if setup.asked.sampler is not None:
        return setup.asked.sampler
    is_whole = setup.batch_size == len(jax.tree.leaves(setup.data)[0])
    return GHMC(0.5, preconditioner=Newton(1.0)) if is_whole else UnderdampedLangevin(1e-3)


def _devices(setup: Setup) -> str:
    kind = f"{jax.device_count()} × {jax.devices()[0].device_kind}"
    if setup.mesh is None:
        return kind
    return f"{kind}, " + " × ".join(f"{axis} {size}" for axis, size in setup.mesh.shape.items() if size > 1)


def _memory_limit() -> float:
    """What the devices have; on a CPU, the memory of the machine."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    stats = device.memory_stats() or {}
    return jax.device_count() * float(stats.get("bytes_limit", math.nan))
