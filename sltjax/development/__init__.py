"""How a model develops over training: the curve of λ̂, stages and phases, what develops together, how outputs move."""

from sltjax.development.components import components
from sltjax.development.crosscheck import change_points
from sltjax.development.curve import milestones, smooth
from sltjax.development.phases import PhaseComparison, compare_phases
from sltjax.development.segmentation import stages
from sltjax.development.trajectories import essential_dynamics

__all__ = [
    "PhaseComparison",
    "change_points",
    "compare_phases",
    "components",
    "essential_dynamics",
    "milestones",
    "smooth",
    "stages",
]
