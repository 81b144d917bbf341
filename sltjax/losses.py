"""Losses, one number an example: by a checkpoint's own behaviour, on a part of the weights, over the full data."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float

from sltjax.fusion import laid_out
from sltjax.precision import with_rounded_products
from sltjax.types import Batch, Loss, Params, Scalar

Outputs = Float[Array, "batch *rest"]
Distance = Callable[[Outputs, Outputs], Float[Array, " batch"]]


def squared_distance(outputs: Outputs, anchor_outputs: Outputs) -> Float[Array, " batch"]:
    """½|f_w(x) − f_w*(x)|², the divergence of two unit-variance Gaussians, summed over all axes of an example."""
    return 0.5 * _sum_of_example(jnp.square(outputs - anchor_outputs))


def kl_divergence(outputs: Outputs, anchor_outputs: Outputs) -> Float[Array, " batch"]:
    """KL(f_w*(x) ‖ f_w(x)) for logits over the last axis, summed over the positions of an example, if any."""
    log_q, log_p = jax.nn.log_softmax(outputs), jax.nn.log_softmax(anchor_outputs)
    return _sum_of_example(jnp.exp(log_p) * (log_p - log_q))


def _sum_of_example(x: Float[Array, "batch *rest"]) -> Float[Array, " batch"]:
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


@struct.dataclass
class BehavioralLoss:
    """The distance from a model's outputs to those of a checkpoint; made by `behavioral_loss`.

    Attributes:
        anchor: the checkpoint; None stands for the anchor of the posterior in which the loss is used.
        apply: (params, batch) -> outputs [batch, ...].
        distance: (outputs, anchor outputs) -> [batch], 0 with gradient 0 where both are equal.
    """

    anchor: Params | None
    apply: Callable[[Params, Batch], Array] = struct.field(pytree_node=False)
    distance: Distance = struct.field(pytree_node=False)

    def at(self, anchor: Params) -> "BehavioralLoss":
        """This loss, measured from `anchor`."""
        return dataclasses.replace(self, anchor=anchor)

    def __call__(self, params: Params, batch: Batch) -> Array:
        """Per-example distances, shape [batch].

        Raises:
            ValueError: there is no anchor to measure from.
        """
        if self.anchor is None:
            raise ValueError(
                "this behavioral loss has no anchor of its own:"
                " use it in a posterior, which brings one, or call .at(params)"
            )
        return self.distance(self.apply(params, batch), self.apply(self.anchor, batch))


def behavioral_loss(
    apply: Callable[[Params, Batch], Array],
    anchor_params: Params | None = None,
    *,
    distance: Distance = squared_distance,
) -> BehavioralLoss:
    """The loss that measures how far a model behaves from a checkpoint (Bushnaq et al., arXiv 2405.10927).

    The checkpoint is its exact minimum, with loss 0 on every example: λ̂ then needs neither labels nor a
    converged network, and means something at every step of training. N_eff = 2λ̂ is the paper's effective
    parameter count at tolerance 1/nβ.

    Args:
        apply: (params, batch) -> outputs [batch, ...], as a pure function.
        anchor_params: the checkpoint; None for the anchor of whichever posterior uses the loss, so that one
            loss serves a whole sweep.
        distance: `squared_distance` (½ the squared error), `kl_divergence` (logits), or your own.
    """
    return BehavioralLoss(anchor_params, apply, distance)


def restrict(loss: Loss, params: Params, select: Callable[[Params], Params]) -> tuple[Loss, Params]:
    """The same problem on a part of the weights, the rest held at `params` (Wang et al., arXiv 2410.02984).

    Args:
        loss: per-example losses of the whole parameters.
        params: the whole parameters.
        select: params -> any pytree of (slices of) their leaves; linear, no entry twice.

    Returns:
        The restricted loss and its parameters `select(params)`; both go wherever the whole ones did.
    """
    if isinstance(loss, BehavioralLoss) and loss.anchor is None:
        loss = loss.at(params)
    selected, write_back = jax.vjp(select, params)

    def restricted(part: Params, batch: Batch) -> Array:
        (change,) = write_back(optax.tree.sub(part, selected))
        return loss(optax.tree.add(params, change), batch)

    return restricted, selected


def in_precision(loss: Loss, dtype: Any = jnp.bfloat16) -> Loss:
    """The same loss, its products of matrices computed in another precision, for speed.

    What is multiplied is rounded to `dtype`, in the products of gradients too, and added up in float32. All else stays
    in float32: chains, activations, losses and their differences; convolutions, and products with a vector, or with a
    `jax.lax.Precision` of their own. Rounding is that of training in mixed precision: an entry of 8 bits is off by
    0.2 %, at random, which λ̂ does not see beside the noise of batches. It pays for products of some hundred rows and
    columns and more, on accelerators and on CPUs that multiply bfloat16 (AVX-512 BF16): there a step takes 0.5 to 0.8
    of the time, though some products stay in float32, which XLA's CPU compiler cannot do (benchmarks/SPEED.md).
    To GHMC, MALA and NUTS, which refuse steps, nβ times the rounding of a loss is noise: an MLP 784-128-10 that
    accepts 0.99 of its steps accepts 0.95 at nβ = 10³, and 0.71 at 10⁵.

    Args:
        loss: per-example losses, or a `BehavioralLoss`, whose outputs are computed so.
        dtype: in which to multiply.

    Raises:
        TypeError: the dtype is not floating point.
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype: got {jnp.dtype(dtype)}, expected floating point, such as bfloat16")
    if isinstance(loss, BehavioralLoss):
        return dataclasses.replace(loss, apply=with_rounded_products(loss.apply, dtype))
    return with_rounded_products(loss, dtype)


def mean_loss(loss: Loss, params: Params, data: Batch, piece: int, less: Array | None = None) -> Scalar:
    """The mean of the per-example losses over the full data, at most `piece` examples in memory at once.

    Where it is differentiated, the gradient of a piece is computed and added up along with its losses.

    Args:
        loss: per-example losses.
        params: where.
        data: pytree of arrays [n, ...].
        piece: examples at once.
        less: per-example numbers [n] to subtract before averaging, which rounding then spares.
    """
    num_examples = _length(data)

    def part(params: Params, batch: tuple[Batch, Array | None], is_new: Array | None) -> Array:
        losses = loss(params, batch[0]) if batch[1] is None else loss(params, batch[0]) - batch[1]
        return jnp.sum(losses if is_new is None else jnp.where(is_new, losses, 0.0)) / num_examples

    @jax.custom_jvp
    def mean(params: Params) -> Array:
        return _sum_over_pieces(partial(part, params), (data, less), piece)

    @mean.defjvp
    def mean_and_change(at: tuple[Params], along: tuple[Params]) -> tuple[Array, Array]:
        value, gradient = _sum_over_pieces(partial(jax.value_and_grad(part), *at), (data, less), piece)
        return value, optax.tree.sum(optax.tree.mul(laid_out(gradient), *along))

    return mean(params)


def losses_in_pieces(loss: Loss, params: Params, data: Batch, piece: int) -> Float[Array, " n"]:
    """The per-example losses over the full data, at most `piece` examples at once."""
    num_examples = _length(data)
    if num_examples <= piece:
        return loss(params, data)
    size, starts = _pieces(num_examples, piece)
    found = jax.lax.map(lambda start: loss(params, _piece(data, start, size)), starts)
    return jnp.concatenate([found[:-1].reshape(-1), found[-1, len(starts) * size - num_examples :]])


def _length(data: Batch) -> int:
    return jax.tree.leaves(data)[0].shape[0]


def _pieces(num_examples: int, most: int) -> tuple[int, Array]:
    """The size of the fewest equal pieces, and where each begins; the last one ends where the data do."""
    size = -(-num_examples // -(-num_examples // most))
    return size, jnp.minimum(jnp.arange(0, num_examples, size), num_examples - size)


def _piece(data: Batch, start: Array, size: int) -> Batch:
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), data)


def _sum_over_pieces(function: Callable[[Batch, Array | None], Any], data: Batch, piece: int) -> Any:
    """The sum of function(piece of the data, which of its examples the pieces before lack; None for all)."""
    num_examples = _length(data)
    if num_examples <= piece:
        return function(data, None)
    size, starts = _pieces(num_examples, piece)

    def at(number: Array) -> Any:
        start = starts[number]
        return function(_piece(data, start, size), start + jnp.arange(size) >= number * size)

    def add(total: Any, number: Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, at(number)), None

    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(at, jnp.int32(0)))
    return jax.lax.scan(add, zero, jnp.arange(len(starts)))[0]
