"""Sweeps: every checkpoint of a training run, every chain, in blocks of one compiled program."""

from sltjax.sweeps.run import sweep

__all__ = ["sweep"]
