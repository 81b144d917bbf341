"""Samplers: one algorithm a file, each a frozen pytree of hyperparameters with `init` and `step`."""

from sltjax.samplers.leimkuhler_matthews import LeimkuhlerMatthews
from sltjax.samplers.noise import gaussian, rademacher
from sltjax.samplers.sgld import SGLD

__all__ = ["SGLD", "LeimkuhlerMatthews", "gaussian", "rademacher"]
