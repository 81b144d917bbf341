"""Networks of one hidden tanh layer whose truth is zero."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sltjax.truth.problem import Coefficient, Truth, whole_numbers
from sltjax.types import Batch, RngKey


def tanh_llc(hidden: int) -> Coefficient:
    """λ and m of Σ_{i≤H} a_i tanh(b_i x) at a = b = 0, where the truth is zero (Aoyagi & Watanabe 2006).

        λ = (H + i² + i)/(4i + 2),  i = ⌊√H⌋;    m = 2 if i² = H, else 1

    Args:
        hidden: H, at least 1.

    Raises:
        ValueError: if H is no whole number of at least 1.
    """
    (units,) = whole_numbers("hidden", [hidden], minimum=1)
    i = math.isqrt(units)
    return Fraction(units + i * i + i, 4 * i + 2), 2 if i * i == units else 1


def tanh_network(key: RngKey, hidden: int, num_examples: int = 1000) -> Truth:
    """Regression on y = 0 by f(x) = Σ_i a_i tanh(b_i x), at a = b = 0; loss ½ (f(x) − y)², x ~ N(0, 1).

    Args:
        key: consumed.
        hidden: H, at least 1.
        num_examples: n, at least H, so that the data tell apart all orders in x that λ counts.

    Returns:
        Truth with params {"a": [H], "b": [H]}, data {"x": [n], "y": [n]}.

    Raises:
        ValueError: if H < 1, n < H or either is no whole number.
    """
    coefficient = tanh_llc(hidden)
    (count,) = whole_numbers("num_examples", [num_examples], minimum=hidden)
    x = jax.random.normal(key, (count,), jnp.float32)
    params = {"a": jnp.zeros(hidden, jnp.float32), "b": jnp.zeros(hidden, jnp.float32)}
    return Truth(_squared_error, params, {"x": x, "y": jnp.zeros_like(x)}, *coefficient)


def tanh_apply(params: dict[str, Float[Array, " hidden"]], x: Float[Array, " n"]) -> Float[Array, " n"]:
    """f(x) = Σ_i a_i tanh(b_i x), for scalar inputs."""
    return jnp.tanh(x[:, None] * params["b"]) @ params["a"]


def _squared_error(params: dict[str, Float[Array, " hidden"]], batch: Batch) -> Float[Array, " batch"]:
    return (tanh_apply(params, batch["x"]) - batch["y"]) ** 2 / 2
