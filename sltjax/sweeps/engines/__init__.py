"""Where blocks are sampled: functions from a job and its blocks to what came of every step."""

from sltjax.sweeps.engines.local import local
from sltjax.sweeps.engines.ray import Ray

__all__ = ["Ray", "local"]
