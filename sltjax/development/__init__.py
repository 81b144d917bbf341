"""How a model develops over training: the curve of λ̂, the stages it falls into, and the way its outputs move."""

from sltjax.development.components import components
from sltjax.development.curve import Curve, smooth
from sltjax.development.segmentation import stages
from sltjax.development.trajectories import essential_dynamics

__all__ = ["Curve", "components", "essential_dynamics", "smooth", "stages"]
