"""Flax modules as what the rest of the library takes: parameters and a pure function of them."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array

from sltjax.types import Batch, Params

PureFunction = Callable[[Params, Batch], Array]


def from_nnx(model: Any, function: Callable[[Any, Batch], Array]) -> tuple[Params, PureFunction]:
    """Parameters of an NNX module, and `function(model, batch)` as a pure function of them.

    The module is left as it is; the function sees a copy of it in evaluation mode, because dropout or a
    moving average would make the loss another function at every call.

    Args:
        model: any NNX module; its `nnx.Param` are the parameters, everything else stays as it is now.
        function: `function(model, batch)` -> per-example losses [batch], or outputs for `behavioral_loss`.

    Returns:
        The parameters (an `nnx.State`) and `pure(params, batch)`.
    """
    from flax import nnx

    frozen = nnx.clone(model)
    frozen.eval()
    split: Any = nnx.split(frozen, nnx.Param, ...)
    graph, params, rest = split

    def pure(params: Params, batch: Batch) -> Array:
        return function(nnx.merge(graph, params, rest), batch)

    return params, pure


def from_linen(
    module: Any, variables: Params, function: Callable[[Callable[..., Any], Batch], Array]
) -> tuple[Params, PureFunction]:
    """Parameters of a Linen module, and `function(apply, batch)` as a pure function of them.

    Args:
        module: any Linen module.
        variables: what `module.init` returned or training left: `{"params": ..., "batch_stats": ...}`.
        function: `function(apply, batch)` -> per-example losses [batch] or outputs; `apply(x)` is the
            module's forward pass with all its variables.

    Returns:
        `variables["params"]` and `pure(params, batch)`.

    Raises:
        ValueError: there are no "params" among the variables.
    """
    if "params" not in variables:
        raise ValueError(f'expected variables with a "params" collection, got {sorted(variables)}')

    def pure(params: Params, batch: Batch) -> Array:
        def apply(*args: Any, **kwargs: Any) -> Any:
            return module.apply({**variables, "params": params}, *args, **kwargs)

        return function(apply, batch)

    return variables["params"], pure
