"""What a sweep is a sweep of, as plain data: its definition, its numerics, and whether two of them are the same."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from sltjax import fingerprint
from sltjax.calibration import Calibration, default_sampler
from sltjax.checkpoints import Source, digest
from sltjax.posterior import LocalPosterior
from sltjax.schedule import Schedule
from sltjax.store import Store, StoreError, differences
from sltjax.types import Batch, RngKey, Sampler
from sltjax.validation import count_examples

Manifest = dict[str, Any]
COMPARED = ("definition", "asked", "key", "versions")


def describe_sweep(
    key: RngKey, posterior: LocalPosterior, data: Batch, checkpoints: Source, asked: Mapping[str, Any], title: str
) -> Manifest:
    """Everything about a sweep but the numerics that calibration has yet to choose."""
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
        "asked": dict(asked),
        "key": fingerprint.of_key(key),
        "versions": fingerprint.versions(),
    }


def describe_numerics(calibration: Calibration, block_size: int) -> dict[str, Any]:
    """Numerics as plain data."""
    return {
        "sampler": describe_sampler(calibration.sampler),
        "curvature": list(calibration.curvature),
        "block_size": block_size,
        **dataclasses.asdict(calibration.schedule),
    }


def describe_sampler(sampler: Sampler | None) -> dict[str, Any] | None:
    """A sampler's name and hyperparameters as plain data."""
    if sampler is None:
        return None
    fields = {field.name: getattr(sampler, field.name) for field in dataclasses.fields(sampler)}  # type: ignore[arg-type]
    plain = {name: value.__name__ if callable(value) else float(value) for name, value in fields.items()}
    return {"name": type(sampler).__name__, **plain}


def restore_numerics(numerics: Mapping[str, Any], sampler: Sampler | None) -> Calibration:
    """The inverse of `describe_numerics`, for the sampler that was asked for, or the calibrated one."""
    schedule = Schedule(**{field.name: numerics[field.name] for field in dataclasses.fields(Schedule)})
    sampler = default_sampler(numerics["sampler"]["step_size"]) if sampler is None else sampler
    return Calibration(sampler, schedule, tuple(numerics["curvature"]))


def require_same(store: Store, stored: Manifest, asked: Manifest) -> None:
    """Refuse to mix results of two sweeps.

    Raises:
        StoreError: with every difference.
    """
    lines = [line for part in COMPARED for line in differences({part: stored[part]}, {part: asked[part]})]
    if lines:
        raise StoreError(
            f"{store.path} holds the results of another sweep:\n  " + "\n  ".join(lines) + "\n"
            "Choose another store, or go back to what is stored."
        )
