"""Estimators: each a few lines over the moments of a trace."""

from sltjax.estimators.learning_coefficient import llc

__all__ = ["llc"]
