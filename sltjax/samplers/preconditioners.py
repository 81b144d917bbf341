"""Diagonal preconditioners: one step size for every parameter, by what the gradients along the chain say.

Each is a frozen pytree of hyperparameters with pure methods: `init` and `update` keep statistics of the
gradients, `scale` turns them into a positive diagonal s, for which a step is ε·s_i, and `drift` is the gradient
to follow while they are learnt. They are learnt in burn-in and kept while drawing: a scale that goes on
adapting leaves the chain another target.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array

from sltjax.samplers.adaptation import Adapted
from sltjax.types import Params, Scalar


@runtime_checkable
class Preconditioner(Protocol):
    """A diagonal scale learnt from gradients."""

    def init(self, params: Params) -> Any:
        """The statistics before the first step."""

    def update(self, statistics: Any, gradient: Params, pull: Params) -> Any:
        """The statistics after a step that saw ∇U_B, of which `pull` = γ(w − w*) is the localisation's part."""

    def scale(self, statistics: Any, params: Params) -> Params:
        """The diagonal s, as a pytree like the parameters or of scalars."""

    def drift(self, statistics: Any, gradient: Params, pull: Params) -> Params:
        """What to follow in place of ∇U_B while the statistics are learnt."""


@struct.dataclass
class Identity:
    """No preconditioning: s = 1."""

    def init(self, params: Params) -> tuple[()]:
        """Nothing to learn."""
        return ()

    def update(self, statistics: tuple[()], gradient: Params, pull: Params) -> tuple[()]:
        """Nothing to learn."""
        return ()

    def scale(self, statistics: tuple[()], params: Params) -> Params:
        """Ones, as scalars that compilation drops."""
        return jax.tree.map(lambda w: 1.0, params)

    def drift(self, statistics: tuple[()], gradient: Params, pull: Params) -> Params:
        """The gradient."""
        return gradient


@struct.dataclass
class Newton:
    """The inverse mean curvature, s_i = 1 / E[(∂_i U)²].

    Integration by parts gives E[∇U ∇Uᵀ] = E[∇²U] under exp(−U): the chain's own gradients measure the curvature
    where the posterior is, which at a singular checkpoint is not where it starts. Step sizes become
    dimensionless. Batch noise counts as curvature, so noisy parameters take shorter steps.

    Attributes:
        curvature: what is assumed of every parameter before the first step; the largest there is, to be stable.
        memory: the share of the chain so far that the mean looks back over: 1/memory of it.
    """

    curvature: Scalar
    memory: Scalar = 4.0

    def init(self, params: Params) -> tuple[Params, Array]:
        """The assumed curvature, as if seen in the first steps."""
        return jax.tree.map(lambda w: jnp.full_like(w, self.curvature), params), jnp.zeros(())

    def update(self, statistics: tuple[Params, Array], gradient: Params, pull: Params) -> tuple[Params, Array]:
        """Average the squared gradient over the later part of the chain so far."""
        squares, count = statistics
        weight = self.memory / (count + 10 * self.memory)
        return jax.tree.map(lambda v, g: v + weight * (g * g - v), squares, gradient), count + 1

    def scale(self, statistics: tuple[Params, Array], params: Params) -> Params:
        """The inverse of the mean square."""
        return jax.tree.map(lambda v: 1 / v, statistics[0])

    def drift(self, statistics: tuple[Params, Array], gradient: Params, pull: Params) -> Params:
        """The gradient."""
        return gradient


@struct.dataclass
class RMSProp:
    """s_i = 1 / (√v̂_i + a) with v ← b·v + (1 − b)·g², g the loss part of ∇U (Li et al. 2016; arXiv 2507.21449).

    Written for nβ·∇L in place of ∇L, which the step size absorbs: ε here is ε·nβ there, and a is a·nβ.

    Attributes:
        decay: b.
        stability: a, in units of the gradient of nβ·L.
    """

    decay: Scalar = 0.99
    stability: Scalar = 1.0

    def init(self, params: Params) -> tuple[Params, Array]:
        """Zeros."""
        return optax.tree.zeros_like(params), jnp.zeros(())

    def update(self, statistics: tuple[Params, Array], gradient: Params, pull: Params) -> tuple[Params, Array]:
        """Average the square of the loss gradient, without the localisation's."""
        squares, count = statistics
        loss_gradient = optax.tree.sub(gradient, pull)
        return _average(squares, jax.tree.map(jnp.square, loss_gradient), self.decay), count + 1

    def scale(self, statistics: tuple[Params, Array], params: Params) -> Params:
        """From the bias-corrected average; 1/a before the first step."""
        squares, count = statistics
        correction = jnp.where(count > 0, 1 - self.decay**count, 1.0)
        return jax.tree.map(lambda v: 1 / (jnp.sqrt(v / correction) + self.stability), squares)

    def drift(self, statistics: tuple[Params, Array], gradient: Params, pull: Params) -> Params:
        """The gradient."""
        return gradient


@struct.dataclass
class Adam:
    """The scale of RMSProp; while it is learnt, the drift is the running mean of the loss gradient.

    A running mean is no gradient of U where the chain stands, so that drawing goes back to the gradient itself:
    published Adam-SGLD (arXiv 2507.21449) keeps it, and has another target. Samplers with a momentum of their own
    follow the gradient throughout.

    Attributes:
        momentum: b1, of the mean.
        decay: b2, of the mean square.
        stability: a, in units of the gradient of nβ·L.
    """

    momentum: Scalar = 0.9
    decay: Scalar = 0.99
    stability: Scalar = 1.0

    def init(self, params: Params) -> tuple[Params, tuple[Params, Array]]:
        """Zeros."""
        return optax.tree.zeros_like(params), self._rmsprop.init(params)

    def update(self, statistics: Any, gradient: Params, pull: Params) -> tuple[Params, tuple[Params, Array]]:
        """Average the loss gradient and its square."""
        mean, squares = statistics
        loss_gradient = optax.tree.sub(gradient, pull)
        return _average(mean, loss_gradient, self.momentum), self._rmsprop.update(squares, gradient, pull)

    def scale(self, statistics: Any, params: Params) -> Params:
        """As RMSProp."""
        return self._rmsprop.scale(statistics[1], params)

    def drift(self, statistics: Any, gradient: Params, pull: Params) -> Params:
        """The bias-corrected mean of the loss gradient, and the pull of the localisation."""
        mean, (_, count) = statistics
        correction = jnp.where(count > 0, 1 - self.momentum**count, 1.0)
        return jax.tree.map(lambda m, p: m / correction + p, mean, pull)

    @property
    def _rmsprop(self) -> RMSProp:
        return RMSProp(self.decay, self.stability)


def _average(mean: Params, new: Params, decay: Scalar) -> Params:
    return jax.tree.map(lambda m, x: decay * m + (1 - decay) * x, mean, new)


def precondition(
    preconditioner: Preconditioner, statistics: Adapted, gradient: Params, pull: Params
) -> tuple[Adapted, Params, Params]:
    """One step of learning: the new statistics, the scale for this step, and what to follow in place of ∇U_B.

    Once learning is over the drift is the gradient, whatever it was before.
    """
    statistics = statistics.update(preconditioner.update(statistics.learnt, gradient, pull))
    drift = preconditioner.drift(statistics.learnt, gradient, pull)
    if drift is not gradient:
        drift = jax.tree.map(lambda d, g: jnp.where(statistics.learning, d, g), drift, gradient)
    return statistics, preconditioner.scale(statistics.learnt, gradient), drift
