"""Figures, of a Dataset or of what calibration, curves and trajectories return."""

from sltjax.plots.chains import calibration, traces
from sltjax.plots.grid import definition
from sltjax.plots.run import development
from sltjax.plots.trajectories import trajectories

__all__ = ["calibration", "definition", "development", "traces", "trajectories"]
