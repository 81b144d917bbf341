"""Where blocks are sampled: functions from a job and its blocks to what came of every step."""

from sltjax.sweeps.engines.local import local

__all__ = ["local"]
