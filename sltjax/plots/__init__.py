"""Figures, of a Dataset or of what calibration, curves and trajectories return."""

from sltjax.plots.chains import calibration, traces
from sltjax.plots.covariances import embedding, matrix, susceptibilities
from sltjax.plots.diagnostics import diagnostics, interactions
from sltjax.plots.grid import definition
from sltjax.plots.parts import components
from sltjax.plots.run import development
from sltjax.plots.spectrum import spectral_density
from sltjax.plots.trajectories import trajectories

__all__ = [
    "calibration",
    "components",
    "definition",
    "development",
    "diagnostics",
    "embedding",
    "interactions",
    "matrix",
    "spectral_density",
    "susceptibilities",
    "traces",
    "trajectories",
]
