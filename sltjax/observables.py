"""What may be recorded at a draw: functions (params, info) -> arrays, where info is what the step saw there."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float

from sltjax.losses import BehavioralLoss, losses_in_pieces
from sltjax.posterior import PIECE, LocalPosterior
from sltjax.types import Batch, Info, Loss, Observable, Params


def delta_loss(params: Params, info: Info) -> Array:
    """ΔL_B(w), an unbiased estimate of L_n(w) − L_n(w*): what λ̂ averages."""
    return info.measured.delta_loss


def acceptance(params: Params, info: Info) -> Array:
    """The probability with which the step was accepted; 1 where a sampler rejects nothing."""
    return jnp.asarray(info.acceptance)


@struct.dataclass
class Distance:
    """|w − w*|, the Euclidean distance to the anchor; `distance` is one.

    Attributes:
        start: w*, or the part of it that chains move; None until it is known which posterior is sampled.
    """

    start: Params | None = None

    def of(self, posterior: LocalPosterior) -> "Distance":
        """The same for chains of that posterior."""
        return Distance(posterior.start)

    def __call__(self, params: Params, info: Info) -> Array:
        """The distance.

        Raises:
            ValueError: there is no posterior to whose anchor it is measured.
        """
        if self.start is None:
            raise ValueError("distance needs the anchor of a posterior: pass it to sample among the observables")
        return optax.tree.norm(optax.tree.sub(params, self.start))


distance = Distance()


@struct.dataclass
class Losses:
    """Per-example losses of the whole parameters; made by `losses`.

    Attributes:
        loss: a `Loss`; a `BehavioralLoss` without an anchor measures from that of the posterior that is sampled.
        examples: on which it is evaluated, pytree of arrays [example, ...].
    """

    loss: Any
    examples: Batch

    def of(self, posterior: LocalPosterior) -> "Losses":
        """The same for what chains of that posterior move: the whole parameters, or a part of them."""
        return dataclasses.replace(self, loss=dataclasses.replace(posterior, loss=self.loss).losses)

    def __call__(self, params: Params, info: Info) -> Float[Array, " example"]:
        """The losses, in float32."""
        return losses_in_pieces(self.loss, params, self.examples, PIECE).astype(jnp.float32)


def losses(loss: Loss, examples: Batch) -> Losses:
    """Record ℓ_i(w), the loss on each of some examples, at every draw: [chain, draw, example], float32.

        observables = {**sltjax.sampling.DEFAULT_OBSERVABLES, "losses": sltjax.observables.losses(loss, examples)}

    It costs a forward pass over the examples at every draw, which `thin` steps share, and no gradient. By convention it
    is recorded under the name "losses".

    Args:
        loss: per-example losses of the whole parameters, even where `select` has chains move a part of them: that of
            the posterior or another one. A `behavioral_loss` without an anchor measures from the posterior's.
        examples: pytree of arrays [example, ...], some of the data or others.
    """
    return Losses(loss if isinstance(loss, BehavioralLoss) else jax.tree_util.Partial(loss), examples)


@struct.dataclass
class PartLosses:
    """The loss with one part of the weights alone moved, for each of several parts; made by `part_losses`.

    Attributes:
        loss: as in `Losses`.
        examples: over which it is averaged, pytree of arrays [example, ...].
        parts: the selections, in order.
        names: what they are called.
        posterior: the one that is sampled; None until then.
    """

    loss: Any
    examples: Batch
    parts: tuple[Callable[[Params], Params], ...] = struct.field(pytree_node=False)
    names: tuple[str, ...] = struct.field(pytree_node=False)
    posterior: LocalPosterior | None = None

    def of(self, posterior: LocalPosterior) -> "PartLosses":
        """The same for chains of that posterior.

        Raises:
            ValueError: its chains move a part of the weights only.
        """
        if posterior.select is not None:
            raise ValueError("part_losses compares parts of weights that all move; sample a posterior without select")
        return dataclasses.replace(self, posterior=dataclasses.replace(posterior, loss=self.loss))

    def __call__(self, params: Params, info: Info) -> Float[Array, " part"]:
        """The mean losses, in float32.

        Raises:
            ValueError: there is no posterior whose anchor the other parts stay at.
        """
        if self.posterior is None:
            raise ValueError("part_losses needs the anchor of a posterior: pass it to sample among the observables")
        alone = [(dataclasses.replace(self.posterior, select=part).losses, part(params)) for part in self.parts]
        means = [jnp.mean(losses_in_pieces(loss, part, self.examples, PIECE)) for loss, part in alone]
        return jnp.stack(means).astype(jnp.float32)


def part_losses(
    loss: Loss, parts: Mapping[str, Callable[[Params], Params]] | Iterable[Callable[[Params], Params]], examples: Batch
) -> PartLosses:
    """Record L(w_C, w*_rest), the mean loss where part C alone moves and the rest is at w*: [chain, draw, part].

    A forward pass over the examples for each part at every draw; their covariances say which parts act on one another
    (`sltjax.loss_interactions`). By convention they are recorded under the name "part_losses".

    Args:
        loss: per-example losses of the whole parameters, as for `losses`.
        parts: params -> a part of them, such as `sltjax.part("blocks/0/.*")`, by their names; without names they are
            called "0", "1", ….
        examples: pytree of arrays [example, ...].
    """
    named = parts if isinstance(parts, Mapping) else {str(place): each for place, each in enumerate(parts)}
    kept = loss if isinstance(loss, BehavioralLoss) else jax.tree_util.Partial(loss)
    return PartLosses(kept, examples, tuple(named.values()), tuple(named))


def bind(observable: Observable, posterior: LocalPosterior) -> Observable:
    """The observable as a function of parameters and info alone, for chains of that posterior."""
    return observable.of(posterior) if isinstance(observable, Distance | Losses | PartLosses) else observable


def traceable(observable: Observable) -> Observable:
    """The observable as a pytree, so that the arrays in it are arguments of a program and no constants."""
    return jax.tree_util.Partial(observable) if jax.tree_util.all_leaves([observable]) else observable
