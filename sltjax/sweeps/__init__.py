"""Sweeps: every checkpoint of a training run, every chain, in blocks of one compiled program."""

from sltjax.sweeps.engines import Ray, local
from sltjax.sweeps.plan import Plan, plan
from sltjax.sweeps.run import calibrate_sweep, sweep

__all__ = ["Plan", "Ray", "calibrate_sweep", "local", "plan", "sweep"]
