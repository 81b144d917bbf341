"""How a model develops over training: the curve of λ̂, its milestones, the stages it falls into, and their phases."""

from sltjax.development.crosscheck import change_points
from sltjax.development.curve import milestones, smooth
from sltjax.development.phases import PhaseComparison, compare_phases
from sltjax.development.segmentation import stages

__all__ = ["PhaseComparison", "change_points", "compare_phases", "milestones", "smooth", "stages"]
