"""What a benchmark has found so far, in a JSON file with a line an entry, so that a stopped run goes on."""

import argparse
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import jax
import numpy as np

import sltjax


def choose_device(told: str | None) -> None:
    """Have jax compute on what `--device` says: cpu, gpu or tpu; what it finds, where nothing is said.

    Args:
        told: the documentation of the script.
    """
    parser = argparse.ArgumentParser(description=told)
    parser.add_argument("--device", choices=("cpu", "gpu", "tpu"), help="what jax finds, unless given")
    if asked := parser.parse_args().device:
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(asked, asked))


def device() -> str:
    """The device that jax has, as in a file's name."""
    return jax.devices()[0].device_kind.lower().replace(" ", "-")


def of_device(file: Path, name: str) -> Path:
    """The file of what was found on a device: "cpu", which is no part of its name, or another."""
    return file if name == "cpu" else file.with_suffix(f".{name}{file.suffix}")


def other_devices(file: Path) -> dict[str, Path]:
    """Of other devices than CPUs: name -> the file of what was found there."""
    return {found.stem.split(".", 1)[1]: found for found in sorted(file.parent.glob(f"{file.stem}.*{file.suffix}"))}


def load(file: Path) -> dict[str, Any]:
    """name -> entry, {} before the first."""
    return json.loads(file.read_text()) if file.exists() else {}


def add(file: Path, name: str, entry: Any) -> None:
    """Write the file with one entry more; a reader never sees half of it."""
    write(file, as_lines(load(file) | {name: entry}) + "\n")


def as_lines(found: dict[str, Any]) -> str:
    """JSON, an entry a line."""
    lines = [f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(entry)}" for name, entry in found.items()]
    return "{\n" + ",\n".join(lines) + "\n}"


def write(file: Path, text: str) -> None:
    """Put the text in the place of what was there, in one go."""
    partial = file.with_suffix(".part")
    partial.write_text(text)
    partial.replace(file)


def plain(estimate: sltjax.Estimate) -> dict[str, Any]:
    """An estimate as JSON holds it, None where it is not finite."""
    numbers = {"value": estimate.value, "std_error": estimate.std_error, "rhat": estimate.health.rhat}
    rounded = {name: float(f"{value:.6g}") if np.isfinite(value) else None for name, value in numbers.items()}
    return {**rounded, "messages": list(estimate.health.messages)}


def order_preserved(truths: Sequence[float], values: Sequence[float]) -> float:
    """The share of pairs whose λ̂ stand in the order of their λ, of those whose λ differ (arXiv 2507.21449)."""
    pairs = [(a, b) for a, b in combinations(zip(truths, values, strict=True), 2) if a[0] != b[0]]
    return float(np.mean([(a[0] - b[0]) * (a[1] - b[1]) > 0 for a, b in pairs]))
