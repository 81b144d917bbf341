"""What a sweep found, as one xarray Dataset: a row a checkpoint, the draws behind it, and what it is a result of."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
import xarray as xr

from sltjax import columns
from sltjax.columns import COLUMNS, HESSIAN, Sampled
from sltjax.estimators import llc, with_rank_check
from sltjax.observables import bind
from sltjax.posterior import LocalPosterior
from sltjax.schedule import Schedule
from sltjax.store import DamagedUnitError, Store, Unit, make_atomically
from sltjax.types import Estimate, Info, Measured, Observable

RESERVED = {
    *("llc", "llc_std_error", "llc_per_chain", "rhat", "ess", "drift", "ok", "verdict", "status", "acceptance", "heat"),
    *("step", "checkpoint", "chain", "draw", "delta_loss", "distance"),
    *("example", "query", "component", "other", *columns.RESERVED),
}
UNIT_BYTES = 2**28  # what may be recorded of a checkpoint
OBSERVED = "observed."  # prefixes that keep the names in a unit apart
METRIC = "metric."

Cells: TypeAlias = dict[str, tuple[tuple[str, ...], Any]]
"""One checkpoint's row: name -> (dims, value)."""

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
        "failed"), `loss` (L_n(w*), or the metric of that name), the metrics, and the columns of `sltjax.columns` that
        were asked for; per chain `llc_per_chain` and, for batches, `heat`, what their noise had added to λ̂ and was
        taken off; per draw the observables. Metrics of several arrays are `name.key`. Rows of failed checkpoints are
        NaN.
    """
    steps = [step for step in steps if step in units or step in failures]
    rows = [row_of(units.get(step), failures.get(step), manifest) for step in steps]
    arrays = [_arrays(units[step], manifest) if step in units else {} for step in steps]
    metrics = {name.removeprefix(METRIC) for unit in units.values() for name in unit if name.startswith(METRIC)}
    return assemble(steps, [row | more for row, more in zip(rows, arrays, strict=True)], metrics, manifest)


def write_results(store: Store, steps: Sequence[int], failures: Mapping[int, str]) -> Path:
    """Write the Dataset of a store, atomically and with one unit in memory at a time.

    Args:
        store: units that are damaged are left out, as those are that were not sampled yet.
        steps: which steps, in order.
        failures: step -> why it has no unit.

    Returns:
        The netCDF file.

    Raises:
        OSError: it could not be written.
    """
    manifest = store.manifest() or {}
    rows: dict[int, Cells] = {}
    metrics: set[str] = set()
    for step in steps:
        unit = _sound(store, step)
        if unit is not None or step in failures:
            rows[step] = row_of(unit, failures.get(step), manifest)
            metrics |= {name.removeprefix(METRIC) for name in unit or () if name.startswith(METRIC)}
    table = assemble(list(rows), list(rows.values()), metrics, manifest)
    path = store.path / "dataset.nc"

    def write(temporary: Path) -> None:
        table.to_netcdf(temporary, engine="h5netcdf")
        units = ((row, _sound(store, step)) for row, step in enumerate(rows))
        gaps = any(step in failures for step in rows)
        _append(temporary, ((row, _arrays(unit, manifest)) for row, unit in units if unit is not None), gaps)

    make_atomically(path, write)
    return path


def _sound(store: Store, step: int) -> Unit | None:
    try:
        return store.read(step)
    except DamagedUnitError:
        return None


def _append(path: Path, units: Iterable[tuple[int, Cells]], gaps: bool) -> None:
    """Add what is large to a netCDF file, row by row; rows without, if there are gaps, stay NaN."""
    import h5netcdf

    with h5netcdf.File(path, "a") as file:
        for row, cells in units:
            for name, (dims, value) in cells.items():
                if name not in file.variables:
                    for dim, size in zip(dims, value.shape, strict=True):
                        if dim not in file.dimensions:
                            file.dimensions[dim] = size
                        if dim in ("chain", "draw") and dim not in file.variables:
                            file.create_variable(dim, (dim,), np.int64)[:] = np.arange(size)
                    gap = _gap(value.dtype)
                    dtype, fill = (gap.dtype, gap) if gaps or value.dtype.kind == "f" else (value.dtype, None)
                    created = file.create_variable(name, ("checkpoint", *dims), dtype, fillvalue=fill)
                    created.attrs["coordinates"] = "step"
                file.variables[name][row] = value


def _gap(dtype: np.dtype) -> np.floating:
    """What stands where there is no number."""
    return np.result_type(dtype, np.float32).type(np.nan)


def assemble(steps: Sequence[int], rows: Sequence[Cells], metrics: Set[str], manifest: Mapping[str, Any]) -> xr.Dataset:
    """Rows, as `row_of` makes them, as one Dataset with dim "checkpoint".

    Args:
        steps: the step of each row.
        rows: one a checkpoint, at least one.
        metrics: which names in them are metrics.
        manifest: definition, numerics and versions; they become attributes.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    variables = {name: _stack(name, rows, metrics) for name in names}
    attrs = {
        "sltjax_version": manifest["versions"]["sltjax"],
        "nbeta": manifest["definition"]["nbeta"],
        "gamma": manifest["definition"]["gamma"],
        **{
            name: json.dumps(value, sort_keys=True)
            for name, value in manifest.items()
            if isinstance(value, dict | list)
        },
        **{name: value for name, value in manifest.items() if isinstance(value, str)},
    }
    places = {"step": ("checkpoint", np.asarray(steps, np.int64)), **columns.coordinates(_asked(manifest))}
    dataset = xr.Dataset(variables, places, attrs)
    return dataset.assign_coords(
        {dim: np.arange(dataset.sizes[dim]) for dim in ("chain", "draw") if dim in dataset.dims}
    )


def check_names(names: Iterable[str]) -> None:
    """Refuse metrics and observables that would take the place of something else, or cannot be stored by their name.

    Raises:
        ValueError: names them.
    """
    names = list(names)
    taken = sorted(name for name in names if name in RESERVED or not name or "/" in name or names.count(name) > 1)
    if taken:
        raise ValueError(
            f"metrics and observables cannot be named {taken}: each a name of its own, without '/', and none of "
            f"{sorted(RESERVED)}"
        )


def bytes_a_unit(
    observables: Mapping[str, Observable], posterior: LocalPosterior, schedule: Schedule
) -> dict[str, int]:
    """How much each observable takes of a unit, for chains of that posterior.

    Raises:
        ValueError: one records something other than an array.
    """
    params, zero = posterior.start, np.float32(0)
    info = Info(params, zero, Measured(zero, params), np.float32(1))
    sizes = {}
    for name, observable in observables.items():
        shape = jax.eval_shape(bind(observable, posterior), params, info)
        if not hasattr(shape, "dtype"):
            raise ValueError(f"observable {name!r}: got {jax.tree.structure(shape)}, expected one array a draw")
        sizes[name] = math.prod(shape.shape) * shape.dtype.itemsize * schedule.num_chains * schedule.num_draws
    return sizes


def check_size(
    observables: Mapping[str, Observable], posterior: LocalPosterior, schedule: Schedule, most: int = UNIT_BYTES
) -> None:
    """Refuse observables that record more than a unit should hold.

    Raises:
        ValueError: names the largest and its size; or one records something other than an array.
    """
    sizes = bytes_a_unit(observables, posterior, schedule)
    if sum(sizes.values()) > most:
        largest = max(sizes, key=sizes.__getitem__)
        raise ValueError(
            f"observables would take {sum(sizes.values()) / 2**20:,.0f} MiB a checkpoint, expected at most "
            f"{most / 2**20:,.0f}; {largest!r} alone takes {sizes[largest] / 2**20:,.0f}: record less of it, or "
            "fewer draws"
        )


def open_results(store: str | Path) -> xr.Dataset:
    """The Dataset of a sweep, read lazily: of all its checkpoints, or of those that a run has come to so far.

    Args:
        store: the folder that `sweep` was given.

    Raises:
        FileNotFoundError: no run has begun there.
    """
    path, folder = Path(store) / "dataset.nc", Store(store)
    if not path.exists() and folder.manifest() is None:
        raise FileNotFoundError(f"no dataset.nc and no manifest.json in {Path(store)}: run the sweep first")
    if not path.exists() or path.stat().st_mtime_ns < folder.changed():  # a run went on since, and was stopped
        failures = folder.failures()
        write_results(folder, sorted({*folder.steps(), *failures}), failures)
    return xr.open_dataset(path, engine="h5netcdf")


def open_parts(store: str | Path) -> dict[str, xr.Dataset]:
    """Name -> Dataset of the parts that a recipe names, as far as they have been sampled; read lazily."""
    folders = sorted(path for path in parts_of(Path(store)).glob("*") if Store(path).manifest() is not None)
    return {path.name: open_results(path) for path in folders}


def parts_of(store: Path) -> Path:
    """Where in a store those of its parts lie."""
    return store / "parts"


def row_of(unit: Unit | None, failure: str | None, manifest: Mapping[str, Any]) -> Cells:
    """What is said of a checkpoint as a whole."""
    if unit is None:
        scalars: dict[str, Any] = {"llc": np.nan, "ok": False, "status": "failed", "verdict": failure}
        return {name: ((), value) for name, value in scalars.items()}
    seen = _seen(unit, manifest)
    definition, asked = seen.definition, _asked(manifest)
    estimate = seen.llc
    if HESSIAN in asked and definition["gamma"] > 0:
        spectrum = columns.spectrum_of(seen.metrics)
        estimate = with_rank_check(estimate, spectrum, definition["nbeta"], definition["gamma"])
    health = estimate.health
    numbers = columns.numbers_of(seen, asked)
    scalars = {
        "llc": estimate.value,
        "llc_std_error": estimate.std_error,
        "rhat": health.rhat,
        "ess": health.ess,
        "drift": health.drift,
        "ok": health.ok,
        "verdict": "; ".join([*health.messages, *_warnings(numbers, health.messages)]),
        "status": "done",
        "loss": unit["anchor_loss"],
        **({"acceptance": unit["acceptance"]} if "acceptance" in unit else {}),
        **{name: found.value for name, found in numbers.items()},
        **{f"{name}_std_error": found.std_error for name, found in numbers.items()},
    }
    cells: Cells = {name: ((), value) for name, value in scalars.items()}
    cells["llc_per_chain"] = (("chain",), estimate.per_chain)
    if "heat" in unit:
        cells["heat"] = (("chain",), unit["heat"])
    for name, value in seen.metrics.items():
        cells[name] = (tuple(f"{name}_{axis}" for axis in range(value.ndim)), value)
    return cells


def _asked(manifest: Mapping[str, Any]) -> columns.Asked:
    return manifest.get("diagnostics", {})


def _seen(unit: Unit, manifest: Mapping[str, Any]) -> Sampled:
    """A unit as diagnostics see it."""
    recorded, metrics = (
        {name.removeprefix(prefix): value for name, value in unit.items() if name.startswith(prefix)}
        for prefix in (OBSERVED, METRIC)
    )
    judged = {name: unit[key] for name, key in JUDGED.items() if key in unit}
    definition = manifest["definition"]
    return Sampled(recorded | judged, metrics, float(unit["anchor_loss"]), llc(judged, definition["nbeta"]), definition)


def _warnings(numbers: Mapping[str, Any], told: Sequence[str]) -> list[str]:
    """What is wrong with diagnostics, and not with λ̂."""
    health = {name: found.health for name, found in numbers.items() if isinstance(found, Estimate)}
    return [f"{name}: {said}" for name, each in health.items() for said in each.messages if said not in told]


def _arrays(unit: Unit, manifest: Mapping[str, Any]) -> Cells:
    """What was recorded at every draw, and what is made of it for every example or component."""
    cells: Cells = {}
    for name, value in unit.items():
        if name.startswith(OBSERVED):
            name = name.removeprefix(OBSERVED)
            cells[name] = (("chain", "draw", *(f"{name}_{axis}" for axis in range(value.ndim - 2))), value)
    if any(name in columns.ARRAYS for name in _asked(manifest)):
        cells |= columns.arrays_of(_seen(unit, manifest), _asked(manifest))
    return cells


def _stack(name: str, rows: Sequence[Cells], metrics: Set[str]) -> xr.Variable:
    dims, known = next(row[name] for row in rows if name in row)
    known = np.asarray(known)
    gap = "" if known.dtype.kind == "U" else np.full(known.shape, _gap(known.dtype))
    values = np.stack([np.asarray(row[name][1] if name in row else gap) for row in rows])
    role = "diagnostic" if name in COLUMNS else "metric" if name in metrics and not name.startswith(HESSIAN) else None
    return xr.Variable(("checkpoint", *dims), values, {"role": role} if role else None)
