"""Inside a training loop: λ̂ beside the loss while the training goes on."""

from sltjax.monitoring.budget import Budget
from sltjax.monitoring.monitor import Monitor
from sltjax.monitoring.saving import SavePolicy
from sltjax.monitoring.steps import log_spaced

__all__ = ["Budget", "Monitor", "SavePolicy", "log_spaced"]
