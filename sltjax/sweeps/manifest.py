"""What a sweep is a sweep of, as plain data: its definition, its numerics, and whether two of them are the same."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from sltjax.calibration import Asked, Calibration
from sltjax.parts import Part
from sltjax.store import Store, StoreError, differences
from sltjax.types import Batch, Params, Sampler

Manifest = dict[str, Any]
Metric = Callable[[Params, Batch], Array | dict[str, Array]]
COMPARED = ("definition", "numerics", "metrics", "observables", "diagnostics", "key", "versions")
SETTLED = ("block_size", "schedule", "pace")  # by the first run, for all that resume it


def settles(chosen: Calibration) -> Manifest:
    """What a calibration adds to a manifest."""
    return {
        "schedule": dict(sorted(dataclasses.asdict(chosen.schedule).items())),
        "pace": dataclasses.asdict(chosen.pace),
        "sampler": type(chosen.sampler).__name__,
    }


def describe_asked(asked: Asked) -> dict[str, Any]:
    """What is settled of the numerics as plain data, and "calibrated" in place of what is not."""
    settled = {field.name: getattr(asked, field.name) for field in dataclasses.fields(asked)}
    settled = {name: "calibrated" if value is None else value for name, value in settled.items()}
    budgets = ("max_chain_steps", "max_seconds", "batch_size")
    kept = {name: value for name, value in settled.items() if name not in budgets}
    return {**kept, "sampler": describe_sampler(asked.sampler)}


def describe_sampler(sampler: Sampler | None) -> dict[str, Any]:
    """A sampler's name and hyperparameters as plain data; None is the one that `calibrate` chooses."""
    return {"name": "calibrated"} if sampler is None else _described(sampler)


def describe_part(select: Callable[[Params], Params], taken: Params) -> dict[str, Any]:
    """Which weights chains move: by whose choice, and how many."""
    said = dict(select.patterns) if isinstance(select, Part) else getattr(select, "__qualname__", type(select).__name__)
    return {"select": said, "num_parameters": sum(np.size(w) for w in jax.tree.leaves(taken))}


def _described(part: Any) -> dict[str, Any]:
    fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    return {"name": type(part).__name__, **{name: _plain(value) for name, value in fields.items()}}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return _described(value)
    if callable(value):
        return value.__name__
    return value if value is None or isinstance(value, str) else np.asarray(value, np.float64).tolist()


def agree(store: Store, asked: Manifest) -> Manifest:
    """The manifest of the store: the one in it, if this sweep is the same, or this one, if the store is new.

    Raises:
        StoreError: the store holds another sweep; gives every difference.
    """
    stored = store.manifest()
    if stored is None:
        store.write_manifest(asked)
        return asked
    stored = {"diagnostics": {}, **stored}  # which stores begun before there were any lack
    absent = [part for part in (*COMPARED, *SETTLED) if part not in stored]
    if absent:
        raise StoreError(
            f"the manifest.json in {store.path} is damaged (it lacks {', '.join(absent)}); "
            "restore it, or choose another store"
        )
    lines = [line for part in COMPARED for line in differences({part: stored[part]}, {part: asked[part]})]
    if lines:
        raise StoreError(
            f"{store.path} holds the results of another sweep:\n  " + "\n  ".join(lines) + "\n"
            "Choose another store, or go back to what is stored."
        )
    return {**asked, **{part: stored[part] for part in SETTLED}}
