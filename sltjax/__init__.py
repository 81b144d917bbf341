"""sltjax: singular learning theory diagnostics at scale, in JAX.

The local learning coefficient of one checkpoint is `estimate_llc`, of a training run `sweep`; `stages` finds when
structure formed. `sample` and the estimators are the parts of which these are made.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sltjax.calibration import Calibration, calibrate
from sltjax.definition import llc_curve
from sltjax.diagnostics import UnhealthyError
from sltjax.estimate import estimate_llc
from sltjax.estimators import (
    bayesian_influence,
    coefficient_interactions,
    correlation,
    covariance,
    fit_llc,
    free_energy,
    hessian_spectra,
    hessian_spectrum,
    judge,
    kernel_pca,
    llc,
    localisation_bias,
    loss_interactions,
    loss_kernel,
    modules,
    multiplicity_correction,
    singular_fluctuation,
    spectral_embedding,
    strongest,
    structure,
    susceptibilities,
    two_temperature_llc,
    umap_embedding,
    waic,
    wbic,
    with_rank_check,
)
from sltjax.evidence import thermodynamic_integration
from sltjax.losses import behavioral_loss, in_precision, kl_divergence, restrict, squared_distance
from sltjax.models import from_linen, from_nnx
from sltjax.parts import part
from sltjax.posterior import LocalPosterior, default_nbeta
from sltjax.samplers import (
    GHMC,
    HMC,
    MALA,
    NUTS,
    SGHMC,
    SGLD,
    SGNHT,
    LeimkuhlerMatthews,
    UnderdampedLangevin,
    adam,
    identity,
    newton,
    rmsprop,
)
from sltjax.sampling import sample
from sltjax.traced import llc_fn
from sltjax.types import Estimate, Health

if TYPE_CHECKING:
    from sltjax import checkpoints, columns, monitoring, sweeps, truth
    from sltjax.development import essential_dynamics, stages
    from sltjax.monitoring import Monitor
    from sltjax.results import open_parts, open_results
    from sltjax.selection import Candidate, compare_models, sbic
    from sltjax.store import StoreError
    from sltjax.sweeps import sweep

# What brings storage, tables or scipy with it is imported when it is first asked for: a training loop that embeds
# sltjax pays for none of it.
_LATE = {
    "checkpoints": "sltjax.checkpoints",
    "columns": "sltjax.columns",
    "truth": "sltjax.truth",
    "monitoring": "sltjax.monitoring",
    "sweeps": "sltjax.sweeps",
    "essential_dynamics": "sltjax.development",
    "stages": "sltjax.development",
    "Monitor": "sltjax.monitoring",
    "open_parts": "sltjax.results",
    "open_results": "sltjax.results",
    "Candidate": "sltjax.selection",
    "compare_models": "sltjax.selection",
    "sbic": "sltjax.selection",
    "StoreError": "sltjax.store",
    "sweep": "sltjax.sweeps",
}

__all__ = [
    "GHMC",
    "HMC",
    "MALA",
    "NUTS",
    "SGHMC",
    "SGLD",
    "SGNHT",
    "Calibration",
    "Candidate",
    "Estimate",
    "Health",
    "LeimkuhlerMatthews",
    "LocalPosterior",
    "Monitor",
    "StoreError",
    "UnderdampedLangevin",
    "UnhealthyError",
    "adam",
    "bayesian_influence",
    "behavioral_loss",
    "calibrate",
    "checkpoints",
    "coefficient_interactions",
    "columns",
    "compare_models",
    "correlation",
    "covariance",
    "default_nbeta",
    "essential_dynamics",
    "estimate_llc",
    "fit_llc",
    "free_energy",
    "from_linen",
    "from_nnx",
    "hessian_spectra",
    "hessian_spectrum",
    "identity",
    "in_precision",
    "judge",
    "kernel_pca",
    "kl_divergence",
    "llc",
    "llc_curve",
    "llc_fn",
    "localisation_bias",
    "loss_interactions",
    "loss_kernel",
    "modules",
    "monitoring",
    "multiplicity_correction",
    "newton",
    "open_parts",
    "open_results",
    "part",
    "restrict",
    "rmsprop",
    "sample",
    "sbic",
    "singular_fluctuation",
    "spectral_embedding",
    "squared_distance",
    "stages",
    "strongest",
    "structure",
    "susceptibilities",
    "sweep",
    "sweeps",
    "thermodynamic_integration",
    "truth",
    "two_temperature_llc",
    "umap_embedding",
    "waic",
    "wbic",
    "with_rank_check",
]


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'sltjax' has no attribute {name!r}")
    module = import_module(_LATE[name])
    return getattr(module, name, module)


def __dir__() -> list[str]:
    return sorted(__all__)
