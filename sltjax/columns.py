"""The diagnostics that a sweep can add to λ̂, by name: what each takes to be recorded, and what it says of a checkpoint.

| name | columns | made of |
|---|---|---|
| wbic | wbic | ΔL of the chains, at nβ = n/log n |
| free_energy | free_energy | λ̂ and L_n(w*); at nβ = n/log n it is WBIC |
| singular_fluctuation | singular_fluctuation | the losses of all examples |
| waic | waic | the losses of all examples, at nβ = n |
| influence | influence [example, query] | the losses of some examples |
| susceptibility | susceptibility [example] | the losses of some examples; of a part, in the sweep of that part |
| interactions | interactions [component, other] | the losses with one component alone moved |
| hessian | hessian_trace, hessian_rank, hessian_count | products of the Hessian with vectors, at the checkpoint |

Each comes with its standard error, `_std_error`, and is NaN where the loss is not finite.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
import xarray as xr
from jaxtyping import Int

from sltjax.estimators import (
    Covariance,
    HessianMetric,
    HessianSpectrum,
    Interactions,
    Susceptibilities,
    bayesian_influence,
    free_energy,
    loss_interactions,
    singular_fluctuation,
    susceptibilities,
    waic,
    wbic,
)
from sltjax.losses import BehavioralLoss
from sltjax.observables import Losses, PartLosses, losses
from sltjax.posterior import LocalPosterior, default_nbeta
from sltjax.threefry import portable
from sltjax.types import Batch, Estimate, Health, Observable, RngKey, Trace
from sltjax.validation import count_examples

COMPARED = 256  # examples that are compared with one another, spread evenly over the data
LOSSES, PARTS, HESSIAN = "losses", "part_losses", "hessian"  # under which names they are recorded
OF_EVERY_EXAMPLE = ("singular_fluctuation", "waic")

Asked: TypeAlias = dict[str, dict[str, Any]]
"""Name of a diagnostic -> what is settled of it, as plain data."""

Found: TypeAlias = Mapping[str, tuple[tuple[str, ...], Any, Any]]
"""Name -> (dims, value, standard error)."""


@dataclasses.dataclass(frozen=True)
class Sampled:
    """One checkpoint, as diagnostics see it.

    Attributes:
        trace: what was recorded at every draw.
        metrics: what was evaluated at the checkpoint.
        anchor_loss: L_n(w*).
        llc: λ̂.
        definition: nβ, γ and n, as the manifest has them.
    """

    trace: Trace
    metrics: Mapping[str, Any]
    anchor_loss: float
    llc: Estimate
    definition: Mapping[str, Any]

    @property
    def num_examples(self) -> int:
        """The size of the data, n."""
        return self.definition["data"]["num_examples"]


def _wbic(seen: Sampled) -> dict[str, Any]:
    if not math.isfinite(seen.anchor_loss):
        return {}
    return {"wbic": wbic(seen.trace, seen.num_examples, seen.anchor_loss)}


def _free_energy(seen: Sampled) -> dict[str, Any]:
    if not math.isfinite(seen.anchor_loss):
        return {}
    return {"free_energy": free_energy(seen.llc, seen.num_examples, seen.anchor_loss)}


def _singular_fluctuation(seen: Sampled) -> dict[str, Any]:
    return {"singular_fluctuation": singular_fluctuation(seen.trace, seen.definition["nbeta"] / seen.num_examples)}


def _waic(seen: Sampled) -> dict[str, Any]:
    return {"waic": waic(seen.trace)}


def _hessian(seen: Sampled) -> dict[str, Any]:
    spectrum = spectrum_of(seen.metrics)
    if not np.isfinite(spectrum.nodes).all():
        return {}
    found = {"hessian_trace": spectrum.trace, "hessian_rank": spectrum.rank()}
    nbeta, gamma = seen.definition["nbeta"], seen.definition["gamma"]
    return {**found, **({"hessian_count": spectrum.effective_count(nbeta, gamma)} if gamma > 0 else {})}


NUMBERS: dict[str, Callable[[Sampled], dict[str, Any]]] = {
    "wbic": _wbic,
    "free_energy": _free_energy,
    "singular_fluctuation": _singular_fluctuation,
    "waic": _waic,
    "hessian": _hessian,
}


def _influence(seen: Sampled, examples: Sequence[int]) -> Found:
    found = bayesian_influence(_of_some(seen.trace[LOSSES], examples))
    return {"influence": (("example", "query"), found.value, found.std_error)}


def _susceptibility(seen: Sampled, examples: Sequence[int]) -> Found:
    found = susceptibilities({"": {**seen.trace, LOSSES: _of_some(seen.trace[LOSSES], examples)}})
    return {"susceptibility": (("example",), found.value[0], found.std_error[0])}


def _interactions(seen: Sampled, components: Sequence[str]) -> Found:
    found = loss_interactions(seen.trace[PARTS], components)
    return {"interactions": (("component", "other"), found.value, found.std_error)}


ARRAYS: dict[str, Callable[..., Found]] = {
    "influence": _influence,
    "susceptibility": _susceptibility,
    "interactions": _interactions,
}
DIAGNOSTICS = (*NUMBERS, *ARRAYS)
COLUMNS = ("wbic", "free_energy", *OF_EVERY_EXAMPLE, "hessian_trace", "hessian_rank", "hessian_count")
"""Those of one number a checkpoint."""
RESERVED = {f"{name}{suffix}" for name in (*COLUMNS, *ARRAYS) for suffix in ("", "_std_error")}
_ALONG = {"example": ("example", "query"), "component": ("component", "other")}


def numbers_of(seen: Sampled, asked: Asked) -> dict[str, Any]:
    """Column -> what has `value` and `std_error`, of the diagnostics asked for; none of a loss that is not finite."""
    return {name: found for each in asked if each in NUMBERS for name, found in NUMBERS[each](seen).items()}


def arrays_of(seen: Sampled, asked: Asked) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Column, or column_std_error -> (dims, float32 array), of the diagnostics asked for."""
    cells = {}
    for each in asked:
        if each in ARRAYS:
            for name, (dims, *both) in ARRAYS[each](seen, *asked[each].values()).items():
                for suffix, value in zip(("", "_std_error"), both, strict=True):
                    cells[name + suffix] = (dims, value.astype(np.float32))
    return cells


def coordinates(asked: Asked) -> dict[str, tuple[str, np.ndarray]]:
    """Which examples and components the arrays are of: dim -> (dim, values)."""
    settled = {name: values for each in asked.values() for name, values in each.items()}
    return {
        dim: (dim, np.asarray(settled[f"{kind}s"]))
        for kind, dims in _ALONG.items()
        if f"{kind}s" in settled
        for dim in dims
    }


def settle(
    key: RngKey,
    asked: Iterable[str] | None,
    posterior: LocalPosterior,
    data: Batch,
    observables: Mapping[str, Observable],
) -> tuple[Asked, dict[str, Observable], dict[str, HessianMetric]]:
    """What is to be recorded for the diagnostics asked for: (the diagnostics, observables, metrics).

    Args:
        key: of the Hessian's random vectors; kept.
        asked: names; None for what can be made of the observables.
        posterior: around any checkpoint.
        data: that of the sweep.
        observables: recorded anyway; under the names `LOSSES` and `PARTS` they take the place of those meant here.

    Raises:
        ValueError: there is none of that name, or this sweep cannot have it; the message says what would.
    """
    count = count_examples(data)
    if asked is None:
        asked = _implied(observables, float(posterior.nbeta), count)
    else:
        asked = list(dict.fromkeys(asked))
        for name in asked:
            _check(name, posterior, count, observables)
    some = spread(count)
    needs_all = any(name in OF_EVERY_EXAMPLE for name in asked)
    recorded: dict[str, Observable] = {}
    if LOSSES in observables:
        given = observables[LOSSES]
        some = spread(count_examples(given.examples)) if isinstance(given, Losses) else some
    elif needs_all or {"influence", "susceptibility"}.intersection(asked):
        recorded[LOSSES] = losses(posterior.loss, data if needs_all else jax.tree.map(lambda x: x[some], data))
    raw = portable(key)
    metrics = {HESSIAN: HessianMetric(raw, posterior.loss, posterior.select)} if "hessian" in asked else {}
    settled: Asked = {name: {} for name in asked}
    for name in {"influence", "susceptibility"}.intersection(asked):
        settled[name] = {"examples": some.tolist()}
    if "interactions" in asked:
        settled["interactions"] = {"components": list(observables[PARTS].names)}  # type: ignore[attr-defined]
    return settled, recorded, metrics


def spread(count: int) -> Int[np.ndarray, " example"]:
    """Which of so many examples are compared: `COMPARED` of them at most, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, COMPARED)).round().astype(int))


def _implied(observables: Mapping[str, Observable], nbeta: float, count: int) -> list[str]:
    """What costs nothing more once it is recorded."""
    of_losses = ["singular_fluctuation", *(["waic"] if _near(nbeta, float(count)) else [])]
    of_parts = isinstance(observables.get(PARTS), PartLosses)
    return (of_losses if isinstance(observables.get(LOSSES), Losses) else []) + (["interactions"] if of_parts else [])


def _check(name: str, posterior: LocalPosterior, count: int, observables: Mapping[str, Observable]) -> None:
    if name not in DIAGNOSTICS:
        near = difflib.get_close_matches(str(name), DIAGNOSTICS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected some of {', '.join(DIAGNOSTICS)}"
        raise ValueError(f"diagnostics: there is no {name!r}; {hint}")
    nbeta = float(posterior.nbeta)
    wanted = {"wbic": ("n/log n", default_nbeta(max(count, 2))), "waic": ("n", float(count))}
    if name in wanted and not _near(nbeta, wanted[name][1]):
        formula, value = wanted[name]
        raise ValueError(
            f"diagnostics: {name} is of the posterior at nβ = {formula}, which is {value:.6g} here, and the sweep is "
            f"at {nbeta:.6g}; set nbeta, or leave {name} out"
        )
    of_losses = name in OF_EVERY_EXAMPLE and LOSSES not in observables
    if (of_losses or name in ("wbic", "free_energy")) and isinstance(posterior.loss, BehavioralLoss):
        raise ValueError(
            f"diagnostics: {name} is of negative log-likelihoods, and a behavioral loss measures each checkpoint from "
            "itself; sweep the training loss for it"
        )
    if name == "interactions" and not isinstance(observables.get(PARTS), PartLosses):
        raise ValueError(
            f'diagnostics: interactions are of components; record observables={{"{PARTS}": '
            "sltjax.observables.part_losses(loss, {name: part, ...}, examples)}, or name [parts] in the recipe"
        )


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-6)


def _of_some(recorded: np.ndarray, examples: Sequence[int]) -> np.ndarray:
    return recorded if recorded.shape[2] == len(examples) else recorded[:, :, list(examples)]


def spectrum_of(metrics: Mapping[str, Any] | xr.Dataset) -> HessianSpectrum:
    """The spectrum of one checkpoint, of its metrics or of its row in the Dataset."""
    names = [field.name for field in dataclasses.fields(HessianSpectrum)]
    return HessianSpectrum(*(np.asarray(metrics[f"{HESSIAN}.{name}"], np.float64) for name in names))


def influence_of(row: xr.Dataset) -> Covariance:
    """The influence of one checkpoint, of its row in the Dataset."""
    value, error = (np.asarray(row[f"influence{suffix}"], np.float64) for suffix in ("", "_std_error"))
    return Covariance(value, error, _health_of(row))


def interactions_of(row: xr.Dataset) -> Interactions:
    """The interactions of one checkpoint, of its row in the Dataset."""
    value, error = (np.asarray(row[f"interactions{suffix}"], np.float64) for suffix in ("", "_std_error"))
    scale = np.where(np.eye(len(value), dtype=bool), np.nan, 1.0)
    return Interactions(tuple(map(str, row["component"].values)), value, error, scale)


def susceptibilities_of(rows: Mapping[str, xr.Dataset]) -> Susceptibilities:
    """The susceptibilities of components at one checkpoint: name -> its row in the Dataset of the part."""
    value, error = (
        np.stack([np.asarray(row[f"susceptibility{suffix}"], np.float64) for row in rows.values()])
        for suffix in ("", "_std_error")
    )
    return Susceptibilities(tuple(rows), value, error, tuple(map(_health_of, rows.values())))


def _health_of(row: xr.Dataset) -> Health:
    rhat, ess, drift = (float(row[name]) for name in ("rhat", "ess", "drift"))
    messages = () if bool(row["ok"]) else (str(row["verdict"].values),)
    return Health(np.full(row.sizes.get("chain", 1), -1), rhat, ess, drift, messages)
