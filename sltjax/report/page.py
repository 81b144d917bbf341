"""One HTML page on a run: what was found, how sure it is, what failed, and how to get it again."""

import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from sltjax import plots
from sltjax.development import components, essential_dynamics, milestones, smooth
from sltjax.report import diagnostics, references
from sltjax.report.references import Reference
from sltjax.report.tables import HEADS, checkpoint_rows, ends, milestone_rows, part_rows, reasons, stage_rows
from sltjax.report.wording import read_json, said_call, said_number, said_numerics, said_settings
from sltjax.store import write_atomically

_NEEDED = ("step", "llc", "llc_std_error", "status", "ok", "verdict")
_KINDS = {
    "A": "λ̂ rises",
    "B": "λ̂ falls, and the loss falls",
    "C": "λ̂ falls, and the loss does not",
}
MOST_TRACES = 8
OUTPUTS = "outputs"


def write_report(
    dataset: xr.Dataset,
    stages: pd.DataFrame,
    path: str | os.PathLike[str],
    parts: Mapping[str, xr.Dataset] | None = None,
    recipe: str = "",
) -> Path:
    """Write the report of one run as a self-contained HTML page; nothing in it is loaded from elsewhere.

    The page appears at `path` at once and whole: it is written beside it first and then put in its place.

    Args:
        dataset: one run with `step`, `llc`, `llc_std_error`, `status`, `ok` and `verdict` of shape [checkpoint];
            `loss`, `rhat`, `ess`, further metrics, the traces `delta_loss` and attributes are shown where present, and
            a metric "outputs" as the trajectory of `sltjax.essential_dynamics`.
        stages: the table that `sltjax.stages` returns for it.
        path: where the page goes; missing folders are made.
        parts: name -> Dataset of the coefficients of parts over the same run.
        recipe: the text of the recipe that the run was made by, to be shown.

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
    content = (
        _found(dataset, stages)
        | _parts(parts or {})
        | _beside(dataset, parts or {})
        | _behind(dataset, stages)
        | _definition(dataset.attrs)
    )
    cited = _cited(dataset, stages, bool(content["trajectories"]), parts or {}, content["behavioral"])
    page = environment.get_template("template.html.j2").render(**content, cited=cited, recipe=recipe.strip())
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode())
    return path


def _found(dataset: xr.Dataset, stages: pd.DataFrame) -> dict[str, Any]:
    """The answer: the curve, its stages and milestones, and how the outputs move."""
    return {
        "title": str(dataset.attrs.get("title") or "Training run"),
        "source": str(dataset.attrs.get("source", "")),
        "summary": _summary(dataset, stages),
        "figure": _svg(plots.development(dataset, stages), "λ̂, loss and metrics over training"),
        "stages": stage_rows(stages),
        "elsewhere": ", ".join(f"{step:,}" for step in stages.attrs.get("elsewhere", ())),
        "exact_stages": "exact_delta_llc" in stages,
        "kinds": {kind: _KINDS[kind] for kind in sorted(set(stages["kind"]))} if len(stages) else {},
        "milestones": milestone_rows(milestones(smooth(dataset))) if _num_known(dataset) >= 3 else [],
        "exact": "exact_llc" in dataset,
        "trajectories": _trajectories(dataset, stages),
    }


def _behind(dataset: xr.Dataset, stages: pd.DataFrame) -> dict[str, Any]:
    """What it rests on: each checkpoint with its verdict, failures, traces."""
    failed, ok = np.asarray(dataset["status"]) == "failed", np.asarray(dataset["ok"], bool)
    return {
        "checkpoints": checkpoint_rows(dataset),
        "drawn": [head for name, head in HEADS.items() if name in dataset.variables],
        "failures": reasons(dataset, failed),
        "warnings": reasons(dataset, ~failed & ~ok),
        "skipped": read_json(dataset.attrs.get("skipped"), []),
        "traces": _traces(dataset, stages),
        "chains": dataset.sizes.get("chain"),
        "draws": dataset.sizes.get("draw"),
    }


def _definition(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured, and how."""
    return {
        "nbeta": said_number(attrs.get("nbeta")),
        "gamma": said_number(attrs.get("gamma")),
        "definition": [pair for pair in said_settings(attrs.get("definition")) if pair[0] not in ("nβ", "γ")],
        "numerics": said_numerics(attrs),
        "call": said_call(attrs),
        "versions": [pair for pair in said_settings(attrs.get("versions")) if pair[0] != "sltjax"],
        "sltjax_version": str(attrs.get("sltjax_version", "")),
        "behavioral": "behavio" in str(attrs.get("definition", "")).lower(),
    }


def _parts(parts: Mapping[str, xr.Dataset]) -> dict[str, Any]:
    if not parts:
        return {"components": [], "components_figure": ""}
    found = components(parts)
    figure = _svg(plots.components(found), "λ̂ of each part over training")
    return {"components": part_rows(found, parts), "components_figure": figure}


def _beside(dataset: xr.Dataset, parts: Mapping[str, xr.Dataset]) -> dict[str, Any]:
    """What was found beside λ̂."""
    drawn = [(_svg(figure, said), said, caption) for figure, said, caption in diagnostics.figures(dataset, parts)]
    return {"diagnostics": drawn, "pairs": diagnostics.strongest_pairs(dataset)}


def _trajectories(dataset: xr.Dataset, stages: pd.DataFrame) -> Markup | str:
    """The figure of how outputs move; "" where none were recorded, or there are too few to move."""
    if OUTPUTS not in dataset.variables or _num_known(dataset) < 3:
        return ""
    found = essential_dynamics(dataset, outputs=OUTPUTS)
    return _svg(plots.trajectories(found, stages), "The outputs over training, in their principal components")


def _traces(dataset: xr.Dataset, stages: pd.DataFrame) -> Markup | str:
    if "delta_loss" not in dataset.variables:
        return ""
    steps = _telling(dataset, stages)
    return _svg(plots.traces(dataset, *steps), "ΔL along the draws of each chain") if steps else ""


def _telling(dataset: xr.Dataset, stages: pd.DataFrame) -> list[int]:
    """The steps of the checkpoints whose traces tell most: the ends of stages, and the largest R-hat among warnings."""
    step, known = np.asarray(dataset["step"]), np.isfinite(np.asarray(dataset["llc"], float))
    if not known.any():
        return []
    ends = [step[known][0], *stages["to_step"], step[known][-1]]
    chosen = list(dict.fromkeys(int(at) for at in ends if at in step[known]))[: MOST_TRACES // 2]
    warned = np.flatnonzero(known & ~np.asarray(dataset["ok"], bool))
    spread = np.asarray(dataset["rhat"], float)[warned] if "rhat" in dataset else np.zeros(len(warned))
    worst = [int(at) for at in step[warned[np.argsort(-spread)]] if int(at) not in chosen]
    return sorted(chosen + worst[: MOST_TRACES - len(chosen)])


def _num_known(dataset: xr.Dataset) -> int:
    """Of how many checkpoints there is an estimate with an error."""
    finite = [np.isfinite(np.asarray(dataset[name], float)) for name in ("llc", "llc_std_error")]
    return int(np.logical_and(*finite).sum())


def _summary(dataset: xr.Dataset, stages: pd.DataFrame) -> str:
    found = np.flatnonzero(np.isfinite(np.asarray(dataset["llc"], float)))
    total = dataset.sizes["checkpoint"]
    if not len(found):
        return f"None of the {total} checkpoints has an estimate; the reasons stand below."
    first, last = ends(dataset)
    steps = np.asarray(dataset["step"])[found[[0, -1]]]
    if not len(stages):
        course = "shows no stages"
    else:
        course = f"changes in {len(stages)} {'stage' if len(stages) == 1 else 'stages'}"
    good = int(np.asarray(dataset["ok"], bool)[found].sum())
    count = f"All {total} checkpoints" if len(found) == total else f"{len(found)} of {total} checkpoints"
    return (
        f"The learning coefficient λ̂ {course}: it is {first} at step {steps[0]:,} and {last} at step {steps[1]:,}. "
        f"{count} have an estimate, {'all' if good == len(found) else good} of them without a warning."
    )


def _cited(
    dataset: xr.Dataset, stages: pd.DataFrame, trajectories: bool, parts: Mapping[str, xr.Dataset], behavioral: bool
) -> list[Reference]:
    """What the report's contents come from."""
    applies = {
        references.LLC: True,
        references.BEHAVIORAL: behavioral,
        references.STAGES: len(stages) > 0 or trajectories,
        references.PARTS: bool(parts),
        references.WBIC: "wbic" in dataset,
        references.WAIC: "waic" in dataset or "singular_fluctuation" in dataset,
        references.INFLUENCE: "influence" in dataset,
        references.SUSCEPTIBILITIES: any("susceptibility" in part for part in parts.values()),
        references.HESSIAN: "hessian_trace" in dataset,
        references.EXACT: "exact_llc" in dataset,
    }
    return [reference for reference, applying in applies.items() if applying]


def _svg(figure: Figure, said: str) -> Markup:
    """Return the figure as inline SVG, without the metadata that names addresses elsewhere."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # nothing refers to them, and two figures would share them
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<svg (.*?)width="[^"]*pt"', r"<svg \1", re.sub(r' height="[^"]*pt"', "", text, count=1), count=1)
    label = f'role="img" aria-label="{said}; the tables give the numbers"'
    return Markup(text.replace("<svg ", f"<svg {label} ", 1))
