"""What makes two sweeps the same one: their loss, data, key and versions, as text that can be compared."""

import hashlib
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from sltjax.checkpoints import digest
from sltjax.losses import BehavioralLoss
from sltjax.observables import bind
from sltjax.posterior import LocalPosterior
from sltjax.threefry import raw_of
from sltjax.types import Batch, Info, Measured, Observable, Params, RngKey

ADDRESS = re.compile(r" at 0x[0-9a-f]+|0x[0-9a-f]{6,}")


def of_function(function: Callable[..., Any], *args: Any) -> str:
    """SHA-256 over what the function computes of such arguments: its jaxpr, and the arrays it has captured.

    Two functions of the same name with another formula differ; a comment or another file does not matter.
    """
    closed = jax.make_jaxpr(function)(*args)
    sha = hashlib.sha256(ADDRESS.sub("", str(closed.jaxpr)).encode())
    sha.update(digest([*closed.consts, *_captured(closed.jaxpr)]).encode())
    return sha.hexdigest()[:16]


def _captured(jaxpr: Jaxpr) -> Iterator[Any]:
    """The arrays that the functions called within hold, of which the text of a jaxpr shows only the shape."""
    for equation in jaxpr.eqns:
        for argument in equation.invars:
            if isinstance(argument, Literal):
                yield argument.val
        for value in jax.tree.leaves(equation.params):
            if isinstance(value, ClosedJaxpr):
                yield from value.consts
                yield from _captured(value.jaxpr)
            elif isinstance(value, Jaxpr):
                yield from _captured(value)
            elif isinstance(value, np.ndarray | jax.Array):
                yield value


def of_loss(posterior: LocalPosterior, data: Batch) -> dict[str, str]:
    """Name and fingerprint of a posterior's loss."""
    batch = jax.tree.map(lambda x: x[:2], data)
    loss = posterior.loss.apply if isinstance(posterior.loss, BehavioralLoss) else posterior.loss
    kind = "behavioral loss of " if isinstance(posterior.loss, BehavioralLoss) else ""
    name = kind + getattr(loss, "__qualname__", type(loss).__name__)

    # The anchor is an argument: a behavioral loss captures it, and must not depend on which checkpoint was first.
    return {"name": name, "fingerprint": of_function(posterior.losses_at, posterior.anchor, batch)}


def of_metrics(metrics: Mapping[str, Callable[[Params, Batch], Any]], params: Params, data: Batch) -> dict[str, str]:
    """Name -> fingerprint of the functions that are evaluated at every checkpoint."""
    return {name: of_function(metric, params, data) for name, metric in metrics.items()}


def of_observables(observables: Mapping[str, Observable], posterior: LocalPosterior) -> dict[str, str]:
    """Name -> fingerprint of the functions that are recorded at every draw."""
    params, zero = posterior.start, np.float32(0)
    info = Info(params, zero, Measured(zero, params), zero)

    def of_one(observable: Observable) -> str:
        if bind(observable, posterior) is observable:
            return of_function(observable, params, info)
        # as with a loss, it must not depend on which checkpoint was first
        bound = lambda anchor, *seen: bind(observable, posterior.at(anchor))(*seen)  # noqa: E731
        return of_function(bound, posterior.anchor, params, info)

    return {name: of_one(observable) for name, observable in observables.items()}


def of_key(key: RngKey) -> list[int]:
    """The numbers in a key."""
    return np.asarray(raw_of(key)).tolist()


def versions() -> dict[str, str]:
    """The versions that the numbers depend on."""
    packages = {name: version(name) for name in ("sltjax", "jax", "jaxlib", "numpy", "blackjax")}
    return {"python": platform.python_version(), "device": jax.devices()[0].device_kind, **packages}
