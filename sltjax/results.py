"""What a sweep found, as one xarray Dataset: a row a checkpoint, the draws behind it, and what it is a result of."""

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sltjax.estimators import llc
from sltjax.store import Unit, write_atomically
from sltjax.types import Estimate

RESERVED = {
    *("llc", "llc_std_error", "llc_per_chain", "rhat", "ess", "drift", "ok", "verdict", "status", "acceptance", "heat"),
    *("step", "checkpoint", "chain", "draw", "delta_loss", "distance"),
}
OBSERVED = "observed."  # prefixes that keep the names in a unit apart
METRIC = "metric."
JUDGED = {"delta_loss": OBSERVED + "delta_loss", "acceptance": "acceptance", "heat": "heat"}
"""What λ̂ is made of, and judged by: in a trace, in a unit."""


def to_dataset(
    steps: Sequence[int],
    units: Mapping[int, Unit],
    failures: Mapping[int, str],
    manifest: Mapping[str, Any],
) -> xr.Dataset:
    """All checkpoints of a sweep in one Dataset with dims (checkpoint, chain, draw).

    Args:
        steps: every step, done or failed, in order; steps without unit or failure are left out.
        units: step -> what was sampled there.
        failures: step -> why nothing was.
        manifest: definition, numerics and versions; they become attributes.

    Returns:
        Per checkpoint: `llc`, `llc_std_error`, `rhat`, `ess`, `drift`, `ok`, `verdict`, `status` ("done" or
        "failed"), `loss` (L_n(w*), or the metric of that name) and the metrics; per chain `llc_per_chain` and, for
        batches, `heat`, what their noise had added to λ̂ and was taken off; per draw the observables. Rows of failed
        checkpoints are NaN.
    """
    steps = [step for step in steps if step in units or step in failures]
    nbeta = manifest["definition"]["nbeta"]
    estimates = {
        step: llc({name: unit[key] for name, key in JUDGED.items() if key in unit}, nbeta)
        for step, unit in units.items()
    }
    rows = [_row(units.get(step), estimates.get(step), failures.get(step)) for step in steps]
    metrics = {name.removeprefix(METRIC) for unit in units.values() for name in unit if name.startswith(METRIC)}
    names = dict.fromkeys(name for row in rows for name in row)
    variables = {name: _stack(name, rows, metrics) for name in names}
    attrs = {
        "sltjax_version": manifest["versions"]["sltjax"],
        "nbeta": nbeta,
        "gamma": manifest["definition"]["gamma"],
        **{name: json.dumps(value) for name, value in manifest.items() if isinstance(value, dict | list)},
        **{name: value for name, value in manifest.items() if isinstance(value, str)},
    }
    dataset = xr.Dataset(variables, {"step": ("checkpoint", np.asarray(steps, np.int64))}, attrs)
    return dataset.assign_coords(
        {dim: np.arange(dataset.sizes[dim]) for dim in ("chain", "draw") if dim in dataset.dims}
    )


def check_metric_names(names: Iterable[str]) -> None:
    """Refuse metrics that would take the place of something else, or cannot be stored under their name.

    Raises:
        ValueError: names them.
    """
    taken = sorted(name for name in names if name in RESERVED or not name or "/" in name)
    if taken:
        raise ValueError(f"metrics cannot be named {taken}: a name without '/', and none of {sorted(RESERVED)}")


def write_dataset(dataset: xr.Dataset, path: Path) -> None:
    """Write netCDF, atomically."""
    write_atomically(path, bytes(dataset.to_netcdf(engine="h5netcdf")))


def open_results(store: str | Path) -> xr.Dataset:
    """The Dataset of a finished or interrupted sweep, read lazily.

    Args:
        store: the folder that `sweep` was given.

    Raises:
        FileNotFoundError: no run has come to its end there yet.
    """
    path = Path(store) / "dataset.nc"
    if not path.exists():
        raise FileNotFoundError(f"no dataset.nc in {Path(store)}: run the sweep to its end first")
    return xr.open_dataset(path, engine="h5netcdf")


Cells = dict[str, tuple[tuple[str, ...], Any]]
"""One checkpoint's row: name -> (dims, value)."""


def _row(unit: Unit | None, estimate: Estimate | None, failure: str | None) -> Cells:
    if unit is None or estimate is None:
        scalars: dict[str, Any] = {"llc": np.nan, "ok": False, "status": "failed", "verdict": failure}
        return {name: ((), value) for name, value in scalars.items()}
    health = estimate.health
    scalars = {
        "llc": estimate.value,
        "llc_std_error": estimate.std_error,
        "rhat": health.rhat,
        "ess": health.ess,
        "drift": health.drift,
        "ok": health.ok,
        "verdict": "; ".join(health.messages),
        "status": "done",
        "loss": unit["anchor_loss"],
        **({"acceptance": unit["acceptance"]} if "acceptance" in unit else {}),
    }
    cells: Cells = {name: ((), value) for name, value in scalars.items()}
    cells["llc_per_chain"] = (("chain",), estimate.per_chain)
    if "heat" in unit:
        cells["heat"] = (("chain",), unit["heat"])
    for name, value in unit.items():
        if name.startswith(METRIC):
            name = name.removeprefix(METRIC)
            cells[name] = (tuple(f"{name}_{axis}" for axis in range(value.ndim)), value)
        elif name.startswith(OBSERVED):
            name = name.removeprefix(OBSERVED)
            rest = tuple(f"{name}_{axis}" for axis in range(value.ndim - 2))
            cells[name] = (("chain", "draw", *rest), value)
    return cells


def _stack(name: str, rows: Sequence[Cells], metrics: Set[str]) -> xr.Variable:
    dims, known = next(row[name] for row in rows if name in row)
    known = np.asarray(known)
    gap = "" if known.dtype.kind == "U" else np.full(known.shape, np.nan, np.result_type(known, np.float32))
    values = np.stack([np.asarray(row[name][1] if name in row else gap) for row in rows])
    return xr.Variable(("checkpoint", *dims), values, {"role": "metric"} if name in metrics else None)
