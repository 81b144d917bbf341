"""Samplers: one algorithm a file, each a frozen pytree of hyperparameters with `init` and `step`."""

from sltjax.samplers.ghmc import GHMC
from sltjax.samplers.leimkuhler_matthews import LeimkuhlerMatthews
from sltjax.samplers.noise import gaussian, rademacher
from sltjax.samplers.preconditioners import Adam, Identity, Newton, RMSProp
from sltjax.samplers.sgld import SGLD
from sltjax.samplers.underdamped import UnderdampedLangevin

__all__ = [
    "GHMC",
    "SGLD",
    "Adam",
    "Identity",
    "LeimkuhlerMatthews",
    "Newton",
    "RMSProp",
    "UnderdampedLangevin",
    "gaussian",
    "rademacher",
]
