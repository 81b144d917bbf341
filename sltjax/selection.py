"""Models of the same data side by side, by all criteria there are for each: a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import logsumexp

from sltjax.estimators import HessianSpectrum, free_energy
from sltjax.types import Estimate

Coefficient: TypeAlias = tuple[Fraction | float | int, int]
"""λ and m, as the rules of `sltjax.truth` give them."""

_WITH_ERRORS = ("llc", "half_rank", "free_energy", "wbic", "evidence", "waic")
COLUMNS = (
    *("loss", "parameters", "bic", "sbic"),
    *(column for name in _WITH_ERRORS for column in (name, f"{name}_std_error")),
    "messages",
)


@dataclass(frozen=True)
class Candidate:
    """What is known of one model, or of one checkpoint of it.

    Attributes:
        anchor_loss: L_n(w*), the mean negative log-likelihood at its best parameters, or at the checkpoint, in nats.
        num_parameters: d.
        llc: λ̂ there, for the free energy.
        multiplicity: m, which goes with λ into the free energy.
        wbic: as `sltjax.wbic` gives it.
        evidence: −log Z_n, as `sltjax.thermodynamic_integration` gives it.
        waic: as `sltjax.waic` gives it.
        hessian: its spectrum there, half the rank of which stands beside λ̂.
    """

    anchor_loss: float
    num_parameters: int
    llc: Estimate | None = None
    multiplicity: int = 1
    wbic: Estimate | None = None
    evidence: Estimate | None = None
    waic: Estimate | None = None
    hessian: HessianSpectrum | None = None


def compare_models(
    candidates: Mapping[str, Candidate],
    num_examples: int,
    *,
    coefficients: Sequence[Sequence[Coefficient | None]] | None = None,
) -> pd.DataFrame:
    """Criteria of several models of the same n examples, a row a model; in each column the least is the best.

    BIC, sBIC, free energy, WBIC and evidence are all of the scale of −log Z_n, in nats (half of what statistics
    packages call BIC), and WAIC is in nats an example. Differences between rows count.

    Args:
        candidates: name -> what is known of it, in an order in which models come after those they contain.
        num_examples: n.
        coefficients: (λ_ij, m_ij) of model i where model j holds the truth, for sBIC; see `sbic`.

    Returns:
        A table with index "model" and columns "loss", "parameters", "bic"; "sbic" where coefficients are given; "llc",
        "half_rank", "free_energy", "wbic", "evidence" and "waic" where a candidate has them and NaN where another has
        not, each followed by its "…_std_error"; and "messages", all that is wrong with its estimates.

    Raises:
        ValueError: no candidates, fewer than 2 examples, or coefficients that do not fit.
    """
    if not candidates:
        raise ValueError("candidates: got none, expected at least one model")
    if num_examples < 2:
        raise ValueError(f"num_examples: got {num_examples}, expected at least 2")
    table = pd.DataFrame([_row(each, num_examples) for each in candidates.values()], index=[*candidates])
    if coefficients is not None:
        log_likelihoods = -num_examples * table["loss"].to_numpy()
        table["sbic"] = -sbic(log_likelihoods, coefficients, num_examples)
    return table.rename_axis("model")[[name for name in COLUMNS if name in table]]


def _row(candidate: Candidate, n: int) -> dict[str, float | str]:
    row: dict[str, float | str] = {
        "loss": candidate.anchor_loss,
        "parameters": candidate.num_parameters,
        "bic": n * candidate.anchor_loss + candidate.num_parameters / 2 * math.log(n),
    }
    estimates = {"llc": candidate.llc, "wbic": candidate.wbic, "evidence": candidate.evidence, "waic": candidate.waic}
    known = {name: estimate for name, estimate in estimates.items() if estimate is not None}
    for name, estimate in known.items():
        row |= {name: estimate.value, f"{name}_std_error": estimate.std_error}
    if candidate.llc is not None:
        expanded = free_energy(candidate.llc, n, candidate.anchor_loss, candidate.multiplicity)
        row |= {"free_energy": expanded.value, "free_energy_std_error": expanded.std_error}
    if candidate.hessian is not None:
        rank = candidate.hessian.rank()
        row |= {"half_rank": float(rank.value) / 2, "half_rank_std_error": float(rank.std_error) / 2}
    said = [f"{name}: {message}" for name, estimate in known.items() for message in estimate.health.messages]
    return {**row, "messages": "; ".join(said)}


def sbic(
    log_likelihoods: Sequence[float] | Float[np.ndarray, " model"],
    coefficients: Sequence[Sequence[Coefficient | None]],
    num_examples: int,
) -> Float[np.ndarray, " model"]:
    """The singular BIC, an approximation of log evidence (Drton & Plummer 2017, JRSS B 79, definition 2).

        L'_ij = exp(ℓ̂_i − λ_ij log n + (m_ij − 1) log log n),    sBIC_i = log L_i,
        Σ_{j ≤ i} (L_i − L'_ij)·L_j = 0,    L_i > 0,    one quadratic equation after the other

    In words: an average of what λ and m would say of model i if the truth lay in its submodel j, weighted by the
    evidence of these submodels, and so free of the question of which holds it. Models have even prior weight.

    Args:
        log_likelihoods: ℓ̂_i = −nL_n at the maximum-likelihood estimate of model i, [model].
        coefficients: rows i of (λ_ij, m_ij) for truths in model j, None where j is no submodel of i; models come
            after their submodels. For reduced rank regression, `sltjax.truth.deep_linear_llc((inputs, i, outputs), j)`.
        num_examples: n.

    Returns:
        sBIC_i, of which the largest is the best, [model].

    Raises:
        ValueError: fewer than 3 examples, shapes that differ, or a model that comes before its submodel.
    """
    if num_examples < 3:
        raise ValueError(f"num_examples: got {num_examples}, expected at least 3, where log log n is positive")
    size = len(log_likelihoods)
    if len(coefficients) != size or any(len(row) != size for row in coefficients):
        shape = [len(row) for row in coefficients]
        raise ValueError(f"coefficients: got rows of {shape}, expected {size} rows of {size}, as many as models")
    found: list[float] = []
    for i, (log_likelihood, row) in enumerate(zip(log_likelihoods, coefficients, strict=True)):
        if row[i] is None or any(entry is not None for entry in row[i + 1 :]):
            raise ValueError(f"coefficients: row {i} must have an entry at {i} and none beyond: submodels come first")
        known = [(j, entry) for j, entry in enumerate(row) if entry is not None]
        penalised = [_penalised(float(log_likelihood), entry, num_examples) for _, entry in known]
        found.append(_log_root(penalised[-1], np.array(penalised[:-1]), np.array([found[j] for j, _ in known[:-1]])))
    return np.array(found)


def _penalised(log_likelihood: float, coefficient: Coefficient, n: int) -> float:
    """Log L'_ij."""
    llc, multiplicity = coefficient
    return log_likelihood - float(llc) * math.log(n) + (multiplicity - 1) * math.log(math.log(n))


def _log_root(own: float, submodels: Float[np.ndarray, " sub"], evidences: Float[np.ndarray, " sub"]) -> float:
    """Log L for the positive root of L² + bL − c = 0, b = Σ L_j − L'_ii, c = Σ L'_ij L_j, all given by their logs."""
    if not submodels.size:
        return own
    log_b, sign = logsumexp([*evidences, own], b=[*np.ones(len(evidences)), -1.0], return_sign=True)
    log_c = logsumexp(submodels + evidences)
    if sign == 0:
        return float(log_c / 2)
    # (−b ± √(b² + 4c))/2, in the form that loses no digits
    root = np.logaddexp(0.0, np.logaddexp(0.0, math.log(4) + log_c - 2 * log_b) / 2)
    return float(log_b + root - math.log(2) if sign < 0 else math.log(2) + log_c - log_b - root)
