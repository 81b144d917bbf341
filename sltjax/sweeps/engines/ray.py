"""On a Ray cluster: every block a task that holds no state, so that a machine that is lost costs one block's time.

Tasks read their checkpoints themselves and send back what came of them; this process alone writes the store. So the
folder of the checkpoints, and modules that the loss comes from, must be seen by every machine.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sltjax.checkpoints import CheckpointError, Source
from sltjax.sweeps.blocks import Job, Known, Outcome, in_blocks
from sltjax.sweeps.progress import Report, Silent

_held: dict[str, tuple[Job, Source]] = {}
"""What this worker samples by; unpickled once a process, because to jax every copy of a function is another one."""


@dataclass(frozen=True)
class Ray:
    """An engine for `sltjax.sweep`; needs `sltjax[ray]`.

    Attributes:
        address: of the cluster; None for the one of this session, else one that is started on this machine.
        num_cpus: that a task takes.
        num_gpus: that a task takes; 0.5 lets two share one, if XLA_PYTHON_CLIENT_MEM_FRACTION leaves them room.
        resources: other resources that a task takes, such as {"TPU": 4}.
        retries: times that a block is sampled again because its machine or process was lost; then its checkpoints
            count as failed, and the others go on.
        in_flight: blocks that are handed out at once; None for all.
        environment: variables that tasks see, such as PYTHONPATH.
    """

    address: str | None = None
    num_cpus: float | int = 1
    num_gpus: float | int = 0
    resources: Mapping[str, float | int] = field(default_factory=dict)
    retries: int = 3
    in_flight: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(
        self, job: Job, checkpoints: Source, blocks: Sequence[Sequence[int]], known: Known, report: Report
    ) -> Iterator[tuple[int, Outcome]]:
        """(step, what came of it) for every step that is not known, in the order in which blocks end."""
        ray = _import_ray()
        ours = not ray.is_initialized()
        if ours:
            try:
                ray.init(address=self.address, log_to_driver=False)
            except ConnectionError as error:
                raise ConnectionError(
                    f"no Ray cluster answers at address {self.address!r}: start one with `ray start --head`, or leave "
                    "the engine's address out for one on this machine alone"
                ) from error
        try:
            yield from self._gather(ray, job, checkpoints, blocks, known, report)
        finally:
            if ours:
                ray.shutdown()

    def _gather(
        self, ray: Any, job: Job, checkpoints: Source, blocks: Sequence[Sequence[int]], known: Known, report: Report
    ) -> Iterator[tuple[int, Outcome]]:
        task = ray.remote(_sample).options(
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus,
            resources=dict(self.resources),
            max_retries=self.retries,
            runtime_env={"env_vars": dict(self.environment)},
        )
        what = ray.put((job, checkpoints))
        waiting = list(reversed(blocks))
        running: dict[Any, Sequence[int]] = {}
        while waiting or running:
            while waiting and len(running) < (self.in_flight or len(blocks)):
                block = waiting.pop()
                running[task.remote([what], block, {step: known(step) for step in block})] = block
            (ended, *_), _ = ray.wait(list(running))
            block = running.pop(ended)
            try:
                outcomes = ray.get(ended)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
                outcomes = [(step, CheckpointError(_lost(error, self.retries))) for step in block if not known(step)]
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error  # as if it had happened here
            sampled = any(not isinstance(outcome, CheckpointError) for _, outcome in outcomes)
            count = report.advance if sampled else report.skip
            count(job.block_size * job.schedule.num_chains * job.schedule.num_steps)
            yield from outcomes


def _sample(what: list[Any], block: Sequence[int], stored: Mapping[int, str | None]) -> list[tuple[int, Outcome]]:
    """A task: read a block and sample it."""
    import ray

    (reference,) = what
    if reference.hex() not in _held:
        _held.clear()
        _held[reference.hex()] = ray.get(reference)
    job, checkpoints = _held[reference.hex()]
    (loaded,) = in_blocks(checkpoints, [block])
    return list(job.outcomes(loaded, stored.get, Silent()))


def _lost(error: Exception, retries: int) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"its worker was lost {retries + 1} times, the last because: {reason}"


def _import_ray() -> Any:
    # under `uv run` Ray would have workers build the project anew, and refuse if it is not in the working directory
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
    except ModuleNotFoundError:
        raise ModuleNotFoundError('the Ray engine needs Ray: pip install "sltjax[ray]"') from None
    return ray
