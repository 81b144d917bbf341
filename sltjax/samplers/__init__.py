"""Samplers: one algorithm a file, each a frozen pytree of hyperparameters with `init` and `step`."""

from sltjax.samplers.blackjax_adapter import HMC, NUTS, Blackjax
from sltjax.samplers.ghmc import GHMC
from sltjax.samplers.leimkuhler_matthews import LeimkuhlerMatthews
from sltjax.samplers.mala import MALA
from sltjax.samplers.noise import gaussian, rademacher
from sltjax.samplers.preconditioners import Adam, Identity, Newton, RMSProp
from sltjax.samplers.sghmc import SGHMC
from sltjax.samplers.sgld import SGLD
from sltjax.samplers.sgnht import SGNHT
from sltjax.samplers.underdamped import UnderdampedLangevin

# as names of a strategy, beside `gaussian`, `gaussian16` and `rademacher`
adam = Adam
identity = Identity
newton = Newton
rmsprop = RMSProp

__all__ = [
    "GHMC",
    "HMC",
    "MALA",
    "NUTS",
    "SGHMC",
    "SGLD",
    "SGNHT",
    "Adam",
    "Blackjax",
    "Identity",
    "LeimkuhlerMatthews",
    "Newton",
    "RMSProp",
    "UnderdampedLangevin",
    "adam",
    "gaussian",
    "identity",
    "newton",
    "rademacher",
    "rmsprop",
]
