"""One HTML page on a run: what was found, how sure it is, what failed, and how to get it again."""

import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from sltjax import plots
from sltjax.development import components
from sltjax.plots.drawing import minus, with_error
from sltjax.store import write_atomically

_NEEDED = ("step", "llc", "llc_std_error", "status", "ok", "verdict")
_KINDS = {
    "A": "λ̂ rises",
    "B": "λ̂ falls, and the loss falls",
    "C": "λ̂ falls, and the loss does not",
}

CALIBRATED = "calibrated"
DIGEST = re.compile("[0-9a-f]{32,}")


@dataclass(frozen=True)
class Cell:
    """A table's entry: what it shows, and what it is sorted by."""

    text: str
    key: int | float | str


def write_report(
    dataset: xr.Dataset,
    stages: pd.DataFrame,
    path: str | os.PathLike[str],
    parts: Mapping[str, xr.Dataset] | None = None,
) -> Path:
    """Write the report of one run as a self-contained HTML page; nothing in it is loaded from elsewhere.

    The page appears at `path` at once and whole: it is written beside it first and then put in its place.

    Args:
        dataset: one run with `step`, `llc`, `llc_std_error`, `status`, `ok` and `verdict` of shape [checkpoint];
            `loss`, `rhat`, `ess`, further metrics and attributes are shown where present.
        stages: the table that `sltjax.stages` returns for it.
        path: where the page goes; missing folders are made.
        parts: name -> Dataset of the coefficients of parts over the same run.

    Returns:
        The path of the page.

    Raises:
        ValueError: if a needed variable is missing.
    """
    missing = [name for name in _NEEDED if name not in dataset.variables]
    if missing:
        raise ValueError(f"a report needs {', '.join(_NEEDED)}: {', '.join(missing)} not in the dataset")
    environment = Environment(
        loader=PackageLoader("sltjax", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("template.html.j2").render(_content(dataset, stages) | _parts(parts or {}))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode())
    return path


def _content(dataset: xr.Dataset, stages: pd.DataFrame) -> dict[str, Any]:
    attrs = dataset.attrs
    return {
        "title": str(attrs.get("title") or "Training run"),
        "source": str(attrs.get("source", "")),
        "summary": _summary(dataset, stages),
        "figure": _svg(plots.development(dataset, stages)),
        "stages": _stage_rows(stages),
        "elsewhere": ", ".join(f"{step:,}" for step in stages.attrs.get("elsewhere", ())),
        "exact_stages": "exact_delta_llc" in stages,
        "kinds": {kind: _KINDS[kind] for kind in sorted(set(stages["kind"]))} if len(stages) else {},
        "checkpoints": _checkpoint_rows(dataset),
        "failures": _where(dataset, np.asarray(dataset["status"]) == "failed"),
        "warnings": _where(dataset, (np.asarray(dataset["status"]) != "failed") & ~np.asarray(dataset["ok"], bool)),
        "skipped": _json(attrs.get("skipped"), []),
        "nbeta": _number(attrs.get("nbeta")),
        "gamma": _number(attrs.get("gamma")),
        "definition": [(name, said) for name, said in _pairs(attrs.get("definition")) if name not in ("nβ", "γ")],
        "numerics": _numerics(attrs),
        "versions": [pair for pair in _pairs(attrs.get("versions")) if pair[0] != "sltjax"],
        "sltjax_version": str(attrs.get("sltjax_version", "")),
        "behavioral": "behavio" in str(attrs.get("definition", "")).lower(),
        "exact": "exact_llc" in dataset,
        "chains": dataset.sizes.get("chain"),
        "draws": dataset.sizes.get("draw"),
    }


def _parts(parts: Mapping[str, xr.Dataset]) -> dict[str, Any]:
    if not parts:
        return {"components": [], "components_figure": ""}
    found = components(parts)
    rows = []
    for name in found["component"].values:
        one, part = found.sel(component=name), parts[str(name)]
        known = np.flatnonzero(np.isfinite(one["llc"]))
        first, last = (with_error(float(one["llc"][k]), float(one["llc_std_error"][k])) for k in known[[0, -1]])
        group = int(one["group"])
        definition = _json(part.attrs.get("definition"), {})
        rows.append(
            {
                "name": str(name),
                "group": str(group + 1) if group >= 0 else "rests",
                "weights": f"{definition['part']['num_parameters']:,}" if "part" in definition else "all",
                "first": first,
                "last": last,
                "warnings": str(int((~np.asarray(part["ok"], bool)).sum())),
            }
        )
    return {"components": rows, "components_figure": _svg(plots.components(found), "λ̂ of each part over training")}


def _summary(dataset: xr.Dataset, stages: pd.DataFrame) -> str:
    llc = np.asarray(dataset["llc"], float)
    found = np.flatnonzero(np.isfinite(llc))
    total = len(llc)
    if not len(found):
        return f"None of the {total} checkpoints has an estimate; the reasons stand below."
    error = np.asarray(dataset["llc_std_error"], float)
    first, last = (with_error(llc[k], error[k]) for k in found[[0, -1]])
    steps = np.asarray(dataset["step"])[found[[0, -1]]]
    if not len(stages):
        course = "shows no stages"
    else:
        course = f"changes in {len(stages)} {'stage' if len(stages) == 1 else 'stages'}"
    return (
        f"The learning coefficient λ̂ {course}: it is {first} at step {steps[0]:,} and {last} at step {steps[1]:,}. "
        f"{_count(len(found), total)} have an estimate, {_faultless(dataset, found)} of them without a warning."
    )


def _count(found: int, total: int) -> str:
    return f"All {total} checkpoints" if found == total else f"{found} of {total} checkpoints"


def _faultless(dataset: xr.Dataset, found: np.ndarray) -> str:
    good = int(np.asarray(dataset["ok"], bool)[found].sum())
    return "all" if good == len(found) else str(good)


def _stage_rows(stages: pd.DataFrame) -> list[dict[str, str]]:
    return [
        {
            "stage": f"{row['stage']}",
            "kind": row["kind"],
            "steps": f"{row['from_step']:,} – {row['to_step']:,}",
            "onset": _at(row, "onset"),
            "end": _at(row, "end"),
            "duration": _at(row, "duration"),
            "confirmed": "yes" if row["confirmed"] else "no",
            "delta_llc": with_error(row["delta_llc"], row["delta_llc_std_error"], sign=True),
            "exact_delta_llc": _signed(row.get("exact_delta_llc", np.nan)),
            "delta_loss": _signed(row["delta_loss"]),
        }
        for row in stages.to_dict("records")
    ]


def _at(row: dict[str, Any], name: str) -> str:
    value, low, high = (_step(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value} ({low} – {high})"


def _step(value: float) -> str:
    """Round a step to four figures: between checkpoints there is no more to know."""
    return f"{float(f'{value:.4g}'):,.0f}" if value >= 10 else f"{value:.2g}"


def _checkpoint_rows(dataset: xr.Dataset) -> list[dict[str, Cell]]:
    columns = {
        name: np.asarray(dataset[name]) for name in (*_NEEDED, "loss", "rhat", "ess") if name in dataset.variables
    }
    blank = np.full(dataset.sizes["checkpoint"], np.nan)
    rows = []
    for k, step in enumerate(columns["step"]):
        value = {name: float(columns.get(name, blank)[k]) for name in ("llc", "llc_std_error", "loss", "rhat", "ess")}
        rows.append(
            {
                "step": Cell(f"{step:,}", int(step)),
                "llc": Cell(with_error(value["llc"], value["llc_std_error"]), _key(value["llc"])),
                "loss": Cell(_number(value["loss"], 4), _key(value["loss"])),
                "rhat": Cell(_places(value["rhat"], 3), _key(value["rhat"])),
                "ess": Cell(_number(value["ess"], 3), _key(value["ess"])),
                "verdict": Cell(*[_verdict(columns, k)] * 2),
            }
        )
    return rows


def _verdict(columns: dict[str, np.ndarray], k: int) -> str:
    text = str(columns["verdict"][k])
    if columns["status"][k] == "failed":
        return f"failed: {text}"
    return text or ("ok" if columns["ok"][k] else "not ok")


def _where(dataset: xr.Dataset, keep: np.ndarray) -> list[tuple[str, str]]:
    steps, verdicts = np.asarray(dataset["step"])[keep], np.asarray(dataset["verdict"])[keep]
    return [(f"{step:,}", str(verdict)) for step, verdict in zip(steps, verdicts, strict=True)]


def _signed(value: float) -> str:
    return minus(f"{value:+.3g}") if np.isfinite(value) else "—"


def _number(value: Any, figures: int = 4) -> str:
    if value is None or not np.isfinite(float(value)):
        return "—"
    value = float(value)
    if abs(value) >= 10 ** (figures - 1):
        return minus(f"{value:,.0f}")
    return minus(f"{value:.{figures}g}")


def _places(value: float, places: int) -> str:
    return f"{value:.{places}f}" if np.isfinite(value) else "—"


def _key(value: float) -> float | str:
    return value if np.isfinite(value) else ""


def _json(text: Any, default: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return default


def _pairs(text: Any) -> list[tuple[str, str]]:
    """Return what a JSON object says as (name, value) in words; what is no JSON is shown as it stands."""
    values = _json(text, None)
    if isinstance(values, dict):
        return [(_words(name), _said(value)) for name, value in values.items()]
    return [("", str(text))] if text else []


def _numerics(attrs: dict[str, Any]) -> list[tuple[str, str]]:
    """What was asked for, with what calibration chose in place of what was left to it."""
    asked = _json(attrs.get("numerics"), None)
    if not isinstance(asked, dict):
        return _pairs(attrs.get("numerics"))
    chosen = {"sampler": attrs.get("sampler"), **_json(attrs.get("schedule"), {})}

    def told(name: str, value: Any) -> str:
        if value not in (CALIBRATED, {"name": CALIBRATED}):
            return _said(value)
        return CALIBRATED if chosen.get(name) is None else f"{_said(chosen[name])} (calibrated)"

    return [(_words(name), told(name, value)) for name, value in asked.items()]


def _words(name: str) -> str:
    return {"nbeta": "nβ", "gamma": "γ"}.get(name, name.replace("_", " "))


def _said(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int | float):
        return f"{value:g}" if abs(value) < 1e5 else f"{value:,.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{_words(key)} = {_said(item)}" for key, item in value.items())
    if isinstance(value, str) and DIGEST.fullmatch(value):
        return f"{value[:16]}…"
    return ", ".join(map(_said, value)) if isinstance(value, list) else str(value)


def _svg(figure: Figure, said: str = "λ̂, loss and metrics over training") -> Markup:
    """Return the figure as inline SVG, without the metadata that names addresses elsewhere."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # nothing refers to them, and two figures would share them
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<svg (.*?)width="[^"]*pt"', r"<svg \1", re.sub(r' height="[^"]*pt"', "", text, count=1), count=1)
    label = f'role="img" aria-label="{said}; the tables below give the numbers"'
    return Markup(text.replace("<svg ", f"<svg {label} ", 1))
