"""sltjax: singular learning theory diagnostics at scale, in JAX.

The local learning coefficient of one checkpoint is `estimate_llc`, of a training run `sweep`; `stages` finds when
structure formed. `sample` and the estimators are the parts of which these are made.
"""

from sltjax import checkpoints, truth
from sltjax.calibration import Calibration, calibrate
from sltjax.development import stages
from sltjax.estimate import estimate_llc
from sltjax.estimators import llc
from sltjax.losses import behavioral_loss, kl_divergence, restrict, squared_distance
from sltjax.models import from_linen, from_nnx
from sltjax.posterior import LocalPosterior, default_nbeta
from sltjax.results import open_results
from sltjax.samplers import SGLD, LeimkuhlerMatthews
from sltjax.sampling import sample
from sltjax.store import StoreError
from sltjax.sweeps import sweep
from sltjax.types import Estimate, Health

__all__ = [
    "SGLD",
    "Calibration",
    "Estimate",
    "Health",
    "LeimkuhlerMatthews",
    "LocalPosterior",
    "StoreError",
    "behavioral_loss",
    "calibrate",
    "checkpoints",
    "default_nbeta",
    "estimate_llc",
    "from_linen",
    "from_nnx",
    "kl_divergence",
    "llc",
    "open_results",
    "restrict",
    "sample",
    "squared_distance",
    "stages",
    "sweep",
    "truth",
]
