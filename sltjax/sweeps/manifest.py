"""What a sweep is a sweep of, as plain data: its definition, its numerics, and whether two of them are the same."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Array

from sltjax import fingerprint
from sltjax.calibration import STEP_TIMES_CURVATURE, default_sampler
from sltjax.checkpoints import Source, digest
from sltjax.posterior import LocalPosterior
from sltjax.schedule import Schedule
from sltjax.store import Store, StoreError, differences
from sltjax.types import Batch, Params, RngKey, Sampler
from sltjax.validation import count_examples

Manifest = dict[str, Any]
Metric = Callable[[Params, Batch], Array]
COMPARED = ("definition", "numerics", "metrics", "key", "versions")


def describe_sweep(
    key: RngKey,
    posterior: LocalPosterior,
    data: Batch,
    checkpoints: Source,
    sampler: Sampler | None,
    schedule: Schedule,
    metrics: Mapping[str, Metric],
    block_size: int,
    title: str,
) -> Manifest:
    """Everything about a sweep, before it starts."""
    return {
        "title": title,
        "source": checkpoints.name,
        "skipped": [[skipped.name, skipped.reason] for skipped in checkpoints.skipped],
        "definition": {
            "loss": fingerprint.of_loss(posterior, data),
            "data": {"num_examples": count_examples(data), "digest": digest(data)},
            "nbeta": float(posterior.nbeta),
            "gamma": float(posterior.gamma),
        },
        "numerics": {"sampler": describe_sampler(sampler), **dataclasses.asdict(schedule)},
        "metrics": fingerprint.of_metrics(metrics, posterior.anchor, data),
        "block_size": block_size,
        "key": fingerprint.of_key(key),
        "versions": fingerprint.versions(),
    }


def describe_sampler(sampler: Sampler | None) -> dict[str, Any]:
    """A sampler's name and hyperparameters as plain data; None is the default one, calibrated."""
    if sampler is None:
        rule = f"{STEP_TIMES_CURVATURE} / largest curvature met, for each checkpoint"
        return {"name": type(default_sampler(1.0)).__name__, "step_size": rule}
    fields = {field.name: getattr(sampler, field.name) for field in dataclasses.fields(sampler)}  # type: ignore[arg-type]
    return {"name": type(sampler).__name__, **{name: _plain(value) for name, value in fields.items()}}


def _plain(value: Any) -> Any:
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
    absent = [part for part in (*COMPARED, "block_size") if part not in stored]
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
    return {**asked, "block_size": stored["block_size"]}
