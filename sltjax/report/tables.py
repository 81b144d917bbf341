"""The rows of the report's tables, in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from sltjax.columns import COLUMNS
from sltjax.plots.drawing import with_error
from sltjax.report.wording import read_json, said_change, said_interval, said_number, said_places

HEADS = dict(zip(COLUMNS, ("WBIC", "free energy", "ν̂", "WAIC", "tr H", "rank H", "held by H"), strict=True))
_BOTH = [f"{name}{suffix}" for name in COLUMNS for suffix in ("", "_std_error")]
_NUMBERS = ("llc", "llc_std_error", "loss", "rhat", "ess")


@dataclass(frozen=True)
class Cell:
    """A table's entry: what it shows, and what it is sorted by."""

    text: str
    key: int | float | str


def stage_rows(stages: pd.DataFrame) -> list[dict[str, str]]:
    """A row a stage, of the table that `sltjax.stages` returns."""
    return [
        {
            "stage": f"{row['stage']}",
            "kind": row["kind"],
            "steps": f"{row['from_step']:,} – {row['to_step']:,}",
            "onset": said_interval(row, "onset"),
            "end": said_interval(row, "end"),
            "duration": said_interval(row, "duration"),
            "confirmed": "yes" if row["confirmed"] else "no",
            "delta_llc": with_error(row["delta_llc"], row["delta_llc_std_error"], sign=True),
            "exact_delta_llc": said_change(row.get("exact_delta_llc", np.nan)),
            "delta_loss": said_change(row["delta_loss"]),
        }
        for row in stages.to_dict("records")
    ]


def milestone_rows(milestones: pd.DataFrame) -> list[dict[str, str]]:
    """A row an extremum of the curve, of the table that `sltjax.development.milestones` returns."""
    return [
        {
            "kind": row["kind"],
            "step": said_interval(row, "step"),
            "value": said_number(row["value"]),
            "probability": f"{100 * row['probability']:.0f} %",
        }
        for row in milestones.to_dict("records")
    ]


def checkpoint_rows(dataset: xr.Dataset) -> list[dict[str, Cell]]:
    """A row a checkpoint: what was found, and whether to believe it."""
    names = ("step", "llc", "llc_std_error", "status", "ok", "verdict", "loss", "rhat", "ess", *_BOTH)
    columns = {name: np.asarray(dataset[name]) for name in names if name in dataset.variables}
    blank = np.full(dataset.sizes["checkpoint"], np.nan)
    rows = []
    for k, step in enumerate(columns["step"]):
        value = {name: float(columns.get(name, blank)[k]) for name in (*_NUMBERS, *_BOTH)}
        more = {
            name: Cell(with_error(value[name], value[f"{name}_std_error"]), _key(value[name]))
            for name in COLUMNS
            if name in columns
        }
        rows.append(
            {
                "step": Cell(f"{step:,}", int(step)),
                "llc": Cell(with_error(value["llc"], value["llc_std_error"]), _key(value["llc"])),
                **more,
                "loss": Cell(said_number(value["loss"], 4), _key(value["loss"])),
                "rhat": Cell(said_places(value["rhat"], 3), _key(value["rhat"])),
                "ess": Cell(said_number(value["ess"], 3), _key(value["ess"])),
                "verdict": Cell(*[_verdict(columns, k)] * 2),
            }
        )
    return rows


def part_rows(found: xr.Dataset, parts: Mapping[str, xr.Dataset]) -> list[dict[str, str]]:
    """A row a part.

    Args:
        found: as `sltjax.development.components` returns it.
        parts: name -> Dataset, of which it was found.
    """
    rows = []
    for name in map(str, found["component"].values):
        one, part = found.sel(component=name), parts[name]
        first, last = ends(one)
        group = int(one["group"])
        definition = read_json(part.attrs.get("definition"), {})
        rows.append(
            {
                "name": name,
                "group": str(group + 1) if group >= 0 else "rests",
                "weights": f"{definition['part']['num_parameters']:,}" if "part" in definition else "all",
                "first": first,
                "last": last,
                "warnings": str(int((~np.asarray(part["ok"], bool)).sum())),
            }
        )
    return rows


def ends(dataset: xr.Dataset) -> tuple[str, str]:
    """λ̂ ± its error at the first and at the last checkpoint that has one."""
    llc, error = np.asarray(dataset["llc"], float), np.asarray(dataset["llc_std_error"], float)
    known = np.flatnonzero(np.isfinite(llc))
    return with_error(llc[known[0]], error[known[0]]), with_error(llc[known[-1]], error[known[-1]])


def reasons(dataset: xr.Dataset, keep: np.ndarray) -> list[tuple[str, str]]:
    """(step, verdict) of the checkpoints to keep, [checkpoint] of booleans."""
    steps, verdicts = np.asarray(dataset["step"])[keep], np.asarray(dataset["verdict"])[keep]
    return [(f"{step:,}", str(verdict)) for step, verdict in zip(steps, verdicts, strict=True)]


def _verdict(columns: Mapping[str, Any], k: int) -> str:
    text = str(columns["verdict"][k])
    if columns["status"][k] == "failed":
        return f"failed: {text}"
    return text or ("ok" if columns["ok"][k] else "not ok")


def _key(value: float) -> float | str:
    return value if np.isfinite(value) else ""
