"""Numbers and settings in words."""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from sltjax.plots.drawing import minus

_CALIBRATED = "calibrated"
_DIGEST = re.compile("[0-9a-f]{32,}")


def said_number(value: Any, figures: int = 4) -> str:
    """A number to that many figures; a dash where there is none."""
    if value is None or not np.isfinite(float(value)):
        return "—"
    value = float(value)
    if abs(value) >= 10 ** (figures - 1):
        return minus(f"{value:,.0f}")
    return minus(f"{value:.{figures}g}")


def said_change(value: float) -> str:
    """A number with its sign."""
    return minus(f"{value:+.3g}") if np.isfinite(value) else "—"


def said_places(value: float, places: int) -> str:
    """A number to that many places."""
    return f"{value:.{places}f}" if np.isfinite(value) else "—"


def said_step(value: float) -> str:
    """A step to four figures: between checkpoints there is no more to know."""
    return f"{float(f'{value:.4g}'):,.0f}" if value >= 10 else f"{value:.2g}"


def said_interval(row: Mapping[str, Any], name: str) -> str:
    """A step and its interval, from a row that has name, name_low and name_high."""
    value, low, high = (said_step(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value} ({low} – {high})"


def read_json(text: Any, default: Any) -> Any:
    """What a JSON text says; the default if it is none."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return default


def said_settings(text: Any) -> list[tuple[str, str]]:
    """What a JSON object says as (name, value) in words; what is no JSON is shown as it stands."""
    values = read_json(text, None)
    if isinstance(values, dict):
        return [(_words(name), _said(value)) for name, value in values.items()]
    return [("", str(text))] if text else []


def said_numerics(attrs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was asked for, with what calibration chose in place of what was left to it."""
    asked = read_json(attrs.get("numerics"), None)
    if not isinstance(asked, dict):
        return said_settings(attrs.get("numerics"))
    chosen = {"sampler": attrs.get("sampler"), **read_json(attrs.get("schedule"), {})}

    def told(name: str, value: Any) -> str:
        if not _is_calibrated(value):
            return _said(value)
        return _CALIBRATED if chosen.get(name) is None else f"{_said(chosen[name])} (calibrated)"

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
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return f"{value[:16]}…"
    return ", ".join(map(_said, value)) if isinstance(value, list) else str(value)


def said_call(attrs: Mapping[str, Any]) -> str:
    """The call of `sltjax.sweep` that a run came from, as far as its attributes know; "" if they know nothing."""
    definition, numerics = (read_json(attrs.get(name), {}) for name in ("definition", "numerics"))
    if not definition or not numerics:
        return ""
    key = read_json(attrs.get("key"), "…")
    lines = [
        f'jax.numpy.array({key}, "uint32"),',
        f"loss,  # {definition.get('loss', {}).get('name', 'as defined above')}",
        f"checkpoints,  # {attrs.get('source') or 'those of the run'}",
        f"data,  # {definition.get('data', {}).get('num_examples', 0):,} examples",
        'store="results",',
        f"nbeta={definition.get('nbeta')!r},",
        f"gamma={definition.get('gamma')!r},",
    ]
    if "part" in definition:
        lines.append(f"select=sltjax.part({definition['part']['select']!r}),")
    if asked := list(read_json(attrs.get("diagnostics"), {})):
        lines.append(f"diagnostics={asked!r},")
    lines += [f"{name}={_argument(value)}," for name, value in numerics.items() if not _is_calibrated(value)]
    return "sltjax.sweep(\n" + "".join(f"    {line}\n" for line in lines) + ")"


def _is_calibrated(value: Any) -> bool:
    return value in (_CALIBRATED, {"name": _CALIBRATED})


def _argument(value: Any) -> str:
    if not isinstance(value, dict):
        return repr(value)
    inside = ", ".join(f"{name}={_argument(each)}" for name, each in value.items() if name != "name")
    return f"sltjax.{value['name']}({inside})"
