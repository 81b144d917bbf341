"""What a monitor has found: a row a step in memory, and behind each, in the store if there is one, all its draws."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from sltjax.checkpoints import CheckpointError
from sltjax.results import Cells, assemble, row_of
from sltjax.store import DamagedUnitError, Store, Unit

log = logging.getLogger(__name__)


class Record:
    """The rows of a training, those of its earlier processes included.

    Attributes:
        rows: step -> what `results.row_of` says of it.
    """

    def __init__(self, store: Store | None, manifest: Mapping[str, Any]) -> None:
        """Begin with what the store holds."""
        self.rows: dict[int, Cells] = {}
        self._store, self._manifest = store, manifest
        self._weights: dict[int, str] = {}
        if store is None:
            return
        self.rows = {step: row_of(None, reason, manifest) for step, reason in store.failures().items()}
        for step in store.steps():
            try:
                unit = store.read(step)
            except DamagedUnitError as error:
                log.warning("%s: step %d is left out", error, step)
                continue
            if unit is not None:
                self._keep(step, unit)

    def known(self, step: int) -> str | None:
        """The digest of the weights around which a step has been sampled; None if it has not."""
        return self._weights.get(step)

    def add(self, step: int, outcome: Unit | CheckpointError) -> None:
        """Keep what came of a step, on disk first.

        Raises:
            OSError: it could not be written.
        """
        if isinstance(outcome, CheckpointError):
            if self._store:
                self._store.write_failure(step, str(outcome))
            self.rows[step] = row_of(None, str(outcome), self._manifest)
            return
        if self._store:
            self._store.write(step, outcome)
        self._keep(step, outcome)

    def _keep(self, step: int, unit: Unit) -> None:
        self.rows[step] = row_of(unit, None, self._manifest)
        self._weights[step] = str(unit["weights"])

    def dataset(self) -> xr.Dataset:
        """All rows, in the order of their steps, without the draws.

        Raises:
            ValueError: there are none yet.
        """
        if not self.rows:
            raise ValueError("nothing has been measured yet")
        steps = sorted(self.rows)
        return assemble(steps, [self.rows[step] for step in steps], set(self._manifest["metrics"]), self._manifest)


def scalars_of(row: Cells, metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row by their names, those of metrics included; "loss" only where it is one of them."""
    named = ("llc", "llc_std_error", "rhat", "ess", "drift", "acceptance", "ok", *metrics)
    found = {name: np.asarray(row[name][1]) for name in named if name in row}
    return {name: float(value) for name, value in found.items() if value.ndim == 0}
