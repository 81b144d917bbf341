"""What a sweep knows so far: in memory, or on disk alone, where writing goes on while the next block is sampled."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from sltjax.checkpoints import CheckpointError
from sltjax.store import DamagedUnitError, Store, Unit
from sltjax.sweeps.progress import Report

WAITING = 64  # units that may wait for the disk


class Ledger:
    """The units of a sweep and why others are missing; a context manager, which ends when all is written.

    Attributes:
        units: step -> unit, where there is no store.
        failures: step -> why there is no unit.
    """

    def __init__(self, store: Store | None, report: Report) -> None:
        self.units: dict[int, Unit] = {}
        self.failures: dict[int, str] = {}
        self._store, self._report = store, report
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sltjax-write")
        self._writing: deque[Future[None]] = deque()

    def known(self, step: int) -> str | None:
        """The digest of the weights around which the step has been sampled already; None if it has not."""
        try:
            unit = self._store.read(step) if self._store else None
        except DamagedUnitError as error:
            self._report.say(f"{error}: sampling step {step} again")
            return None
        return None if unit is None else str(unit["weights"])

    def add(self, step: int, outcome: Unit | CheckpointError) -> None:
        """Keep what came of a step.

        Raises:
            OSError: an earlier one could not be written.
        """
        if isinstance(outcome, CheckpointError):
            self.failures[step] = str(outcome)
            reason = str(outcome)
            self._report.say(reason if reason.startswith(f"step {step} ") else f"step {step} failed: {reason}")
        if self._store is None:
            if not isinstance(outcome, CheckpointError):
                self.units[step] = outcome
            return
        while len(self._writing) >= WAITING or (self._writing and self._writing[0].done()):
            self._writing.popleft().result()
        if isinstance(outcome, CheckpointError):
            self._writing.append(self._thread.submit(self._store.write_failure, step, str(outcome)))
        else:
            self._writing.append(self._thread.submit(self._store.write, step, outcome))

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for what is being written, also on the way out of an error: what is done is kept."""
        self._thread.shutdown(wait=True)
        if kind is None:
            for written in self._writing:
                written.result()
