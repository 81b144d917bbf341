"""What makes two sweeps the same one: their loss, data, key and versions, as text that can be compared."""

import hashlib
import platform
import re
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sltjax.checkpoints import digest
from sltjax.losses import BehavioralLoss
from sltjax.posterior import LocalPosterior
from sltjax.types import Batch, RngKey

ADDRESS = re.compile(r" at 0x[0-9a-f]+|0x[0-9a-f]{6,}")


def of_function(function: Callable[..., Any], *args: Any) -> str:
    """SHA-256 over what the function computes of such arguments: its jaxpr, and the arrays it has captured.

    Two functions of the same name with another formula differ; a comment or another file does not matter.
    """
    closed = jax.make_jaxpr(function)(*args)
    sha = hashlib.sha256(ADDRESS.sub("", str(closed.jaxpr)).encode())
    sha.update(digest(closed.consts).encode())
    return sha.hexdigest()[:16]


def of_loss(posterior: LocalPosterior, data: Batch) -> dict[str, str]:
    """Name and fingerprint of a posterior's loss."""
    batch = jax.tree.map(lambda x: x[:2], data)
    loss = posterior.loss.apply if isinstance(posterior.loss, BehavioralLoss) else posterior.loss
    kind = "behavioral loss of " if isinstance(posterior.loss, BehavioralLoss) else ""
    name = kind + getattr(loss, "__qualname__", type(loss).__name__)
    return {"name": name, "fingerprint": of_function(posterior.losses, posterior.anchor, batch)}


def of_key(key: RngKey) -> list[int]:
    """The numbers in a key."""
    data = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    return np.asarray(data).tolist()


def versions() -> dict[str, str]:
    """The versions that the numbers depend on."""
    packages = {name: version(name) for name in ("sltjax", "jax", "jaxlib", "numpy", "blackjax")}
    return {"python": platform.python_version(), "device": jax.devices()[0].device_kind, **packages}
