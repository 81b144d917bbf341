"""The localised tempered posterior around a checkpoint, and the potentials that it hands to samplers."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array

from sltjax.fusion import laid_out
from sltjax.losses import BehavioralLoss, losses_in_pieces, mean_loss, restrict
from sltjax.types import Batch, Measured, Params, Potential, Rows, Scalar

PIECE = 4096  # examples in memory at once where the batch is the full data; of more a CPU has less in its caches


@struct.dataclass
class AnchorTerms:
    """What one batch says at the anchor w*: computed once a batch, shared by all chains of a checkpoint.

    Attributes:
        losses: per-example losses at w*, shape [batch]; None stands for zeros.
        correction: ∇L_B(w*) − ∇L_n(w*), shaped like the parameters; None stands for zero.
    """

    losses: Any
    correction: Params | None


@struct.dataclass
class LocalPosterior:
    """p(w) ∝ exp(−nβ·L_n(w) − γ/2·|w − w*|²) (Lau et al., arXiv 2308.12108, section 4).

    Its minibatch potential is anchored: the first-order expansion of the loss at w* serves as a control
    variate (Baker et al. 2019; Johnson & Zhang 2013),

        ΔL_B(w) = L_B(w) − L_B(w*) − ⟨∇L_B(w*) − ∇L_n(w*), w − w*⟩
        U_B(w)  = nβ·ΔL_B(w) + γ/2·|w − w*|²

    so that E_B[ΔL_B(w)] = L_n(w) − L_n(w*) exactly, with a variance that vanishes as w → w*.
    It is a frozen pytree: stack the leaves of several, and vmap.

    Attributes:
        loss: a `Loss`; a `BehavioralLoss` without an anchor measures from this one.
        anchor: the checkpoint w*.
        nbeta: effective inverse temperature nβ > 0; `default_nbeta` is n / log n.
        gamma: strength γ ≥ 0 of the localisation.
        anchor_loss: L_n(w*), filled in by `condition`.
        anchor_gradient: ∇L_n(w*), filled in by `condition` for batches that are a part of the data, if anchored.
        anchor_losses: per-example losses at w*, shape [n], filled in by `condition` where no gradient at w* is needed.
        anchored: False drops the gradient correction: the plain potential of the literature.
        select: the part of the weights that chains move, the rest being held at the anchor, as `restrict` takes it;
            None for all of them. Parameters below are those of the part.
    """

    loss: Any
    anchor: Params
    nbeta: Scalar
    gamma: Scalar
    anchor_loss: Scalar = None
    anchor_gradient: Params | None = None
    anchor_losses: Any = None
    anchored: bool = struct.field(pytree_node=False, default=True)
    select: Callable[[Params], Params] | None = struct.field(pytree_node=False, default=None)

    @property
    def measures_anchor(self) -> bool:
        """Whether every example's loss, and its gradient, is 0 at the anchor by construction."""
        return isinstance(self.loss, BehavioralLoss) and self.loss.anchor is None

    @property
    def start(self) -> Params:
        """Where chains begin: w*, or the part of it that they move."""
        return self.anchor if self.select is None else self.select(self.anchor)

    def at(self, anchor: Params) -> "LocalPosterior":
        """This posterior, around another checkpoint, or around a stack of them."""
        return dataclasses.replace(self, anchor=anchor)

    def losses(self, params: Params, batch: Batch) -> Array:
        """Per-example losses of `params`, shape [batch]."""
        loss = self.loss.at(self.anchor) if self.measures_anchor else self.loss
        if self.select is not None:
            loss, _ = restrict(loss, self.anchor, self.select)
        return loss(params, batch)

    def losses_at(self, anchor: Params, batch: Batch) -> Array:
        """Per-example losses at another checkpoint, where its chains would begin, shape [batch]."""
        local = self.at(anchor)
        return local.losses(local.start, batch)

    def condition(self, data: Batch, batch_size: int) -> "LocalPosterior":
        """Return this posterior with what batches of that size need to know of the full data at w* filled in."""
        if self.measures_anchor:
            return dataclasses.replace(self, anchor_loss=jnp.zeros(()))
        is_all = batch_size == len(jax.tree.leaves(data)[0])
        if is_all or not self.anchored:
            losses = losses_in_pieces(self.losses, self.start, data, PIECE if is_all else batch_size)
            return dataclasses.replace(self, anchor_loss=jnp.mean(losses), anchor_losses=losses)
        loss, gradient = jax.value_and_grad(lambda w: mean_loss(self.losses, w, data, batch_size))(self.start)
        return dataclasses.replace(self, anchor_loss=loss, anchor_gradient=gradient)

    def anchor_terms(self, batch: Batch, rows: Rows) -> AnchorTerms:
        """What `potential` needs to know of a batch at the anchor; it holds these rows of what `condition` was told."""
        if self.measures_anchor:
            return AnchorTerms(None, None)
        if self.anchor_losses is not None:
            return AnchorTerms(self.anchor_losses[rows], None)
        losses, pullback = jax.vjp(lambda w: self.losses(w, batch), self.start)
        (gradient,) = pullback(jnp.full_like(losses, 1 / len(losses)))
        return AnchorTerms(losses, optax.tree.sub(laid_out(gradient), self.anchor_gradient))

    def potential(self, batch: Batch, terms: AnchorTerms) -> Potential:
        """Return U_B as a function params -> (U_B(w), what was measured), U_B(w*) = 0."""

        def potential(params: Params) -> tuple[Array, Measured]:
            offset = optax.tree.sub(params, self.start)
            delta_loss = mean_loss(self.losses, params, batch, PIECE, terms.losses)
            if terms.correction is not None:
                delta_loss -= optax.tree.vdot(terms.correction, offset)
            value = self.nbeta * delta_loss + self.gamma / 2 * optax.tree.norm(offset, squared=True)
            return value, Measured(delta_loss, optax.tree.scale(self.gamma, offset))

        return potential


def default_nbeta(num_examples: int) -> float:
    """nβ = n / log n, the temperature of the WBIC (Watanabe 2013), at which λ̂ is defined unless set otherwise.

    Raises:
        ValueError: for one example there is no such temperature.
    """
    if num_examples < 2:
        raise ValueError(f"nβ = n / log n needs at least 2 examples, got {num_examples}; pass more data, or set nbeta")
    return num_examples / math.log(num_examples)
