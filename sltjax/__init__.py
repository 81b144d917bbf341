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
from sltjax.estimators import fit_llc, judge, llc, localisation_bias, multiplicity_correction, two_temperature_llc
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
    from sltjax import checkpoints, monitoring, sweeps, truth
    from sltjax.development import essential_dynamics, stages
    from sltjax.monitoring import Monitor
    from sltjax.results import open_parts, open_results
    from sltjax.store import StoreError
    from sltjax.sweeps import sweep

# What brings storage, tables or scipy with it is imported when it is first asked for: a training loop that embeds
# sltjax pays for none of it.
_LATE = {
    "checkpoints": "sltjax.checkpoints",
    "truth": "sltjax.truth",
    "monitoring": "sltjax.monitoring",
    "sweeps": "sltjax.sweeps",
    "essential_dynamics": "sltjax.development",
    "stages": "sltjax.development",
    "Monitor": "sltjax.monitoring",
    "open_parts": "sltjax.results",
    "open_results": "sltjax.results",
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
    "Estimate",
    "Health",
    "LeimkuhlerMatthews",
    "LocalPosterior",
    "Monitor",
    "StoreError",
    "UnderdampedLangevin",
    "UnhealthyError",
    "adam",
    "behavioral_loss",
    "calibrate",
    "checkpoints",
    "default_nbeta",
    "essential_dynamics",
    "estimate_llc",
    "fit_llc",
    "from_linen",
    "from_nnx",
    "identity",
    "in_precision",
    "judge",
    "kl_divergence",
    "llc",
    "llc_curve",
    "llc_fn",
    "localisation_bias",
    "monitoring",
    "multiplicity_correction",
    "newton",
    "open_parts",
    "open_results",
    "part",
    "restrict",
    "rmsprop",
    "sample",
    "squared_distance",
    "stages",
    "sweep",
    "sweeps",
    "truth",
    "two_temperature_llc",
]


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'sltjax' has no attribute {name!r}")
    module = import_module(_LATE[name])
    return getattr(module, name, module)


def __dir__() -> list[str]:
    return sorted(__all__)
