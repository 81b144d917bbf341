"""What a chain learns in burn-in and keeps while it draws: a kernel that goes on changing has another target."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from sltjax.types import Scalar


@struct.dataclass
class Adapted:
    """Something learnt along the chain; a part of a sampler's state.

    Attributes:
        learnt: any pytree of arrays.
        learning: whether it may still change, a boolean scalar.
    """

    learnt: Any
    learning: Scalar

    def update(self, learnt: Any) -> "Adapted":
        """Replace what was learnt, while learning."""
        kept = jax.tree.map(lambda new, old: jnp.where(self.learning, new, old), learnt, self.learnt)
        return Adapted(kept, self.learning)


def adapted(learnt: Any) -> Adapted:
    """The start of learning."""
    return Adapted(learnt, jnp.ones((), bool))


def set_learning(states: Any, learning: Scalar) -> Any:
    """The same states, all of whose `Adapted` parts learn from now on, or keep what they have."""

    def set_one(part: Any) -> Any:
        return Adapted(part.learnt, jnp.broadcast_to(learning, part.learning.shape)) if _is_adapted(part) else part

    return jax.tree.map(set_one, states, is_leaf=_is_adapted)


def _is_adapted(part: Any) -> bool:
    return isinstance(part, Adapted)
