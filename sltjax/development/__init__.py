"""How a model develops over training: the curve of λ̂ and the stages it falls into."""

from sltjax.development.components import components
from sltjax.development.curve import Curve, smooth
from sltjax.development.segmentation import stages

__all__ = ["Curve", "components", "smooth", "stages"]
