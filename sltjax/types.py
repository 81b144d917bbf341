"""The nouns that every other module speaks: losses, potentials, samplers, observables, traces, estimates."""

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np
from flax import struct
from jaxtyping import Array, Key, PyTree, UInt32

Params: TypeAlias = PyTree[Any]
"""Any pytree of floating-point arrays: dicts, lists, Flax NNX states, Linen variables."""

Batch: TypeAlias = PyTree[Any]
"""A pytree of arrays that share their leading axis, one entry an example. The full data is a batch too."""

Rows: TypeAlias = Array | slice
"""Which examples of the data a batch holds: indices [batch], or `slice(None)` for all of them."""

RngKey: TypeAlias = Key[Array, ""] | UInt32[Array | np.ndarray, "2"]
"""A threefry key, new style (`jax.random.key`) or old (`jax.random.PRNGKey`). Never reused, never defaulted."""

Scalar: TypeAlias = Any
"""A scalar in a pytree, where jax.tree and vmap may put an array of any shape, or no array at all, in its place."""

Loss: TypeAlias = Callable[[Params, Batch], Array]
"""`loss(params, batch)`: one loss an example, shape [batch], as a pure function of its two arguments."""


@struct.dataclass
class Measured:
    """What a potential measures beside its value.

    Attributes:
        delta_loss: ΔL_B(w), a scalar; its mean over batches is L_n(w) − L_n(w*).
        pull: γ(w − w*), the localisation's part of ∇U_B, like the parameters; costs nothing where it is not used.
    """

    delta_loss: Scalar
    pull: Params


Potential: TypeAlias = Callable[[Params], tuple[Array, Measured]]
"""`potential(params)`: the posterior's negative log density U on one batch, and what it measured on the way."""


@struct.dataclass
class Info:
    """What one sampler step saw at the position where it evaluated the potential.

    Attributes:
        params: that position, drawn without knowledge of the step's batch.
        potential: U_B there, a scalar.
        measured: what the potential measured there.
        acceptance: probability with which the step was accepted; 1 where a sampler rejects nothing.
    """

    params: Params
    potential: Scalar
    measured: Measured
    acceptance: Scalar = 1.0


@runtime_checkable
class Sampler(Protocol):
    """A frozen pytree of hyperparameters with two pure methods; arrays as hyperparameters may be vmapped over.

    Parts of its state that are `samplers.adaptation.Adapted` are learnt in burn-in and kept while drawing.

    Attributes:
        needs_full_data: whether it compares potentials between steps, which then must be the same one.
    """

    needs_full_data: ClassVar[bool]

    def init(self, key: RngKey, params: Params) -> Any:
        """Return the state of a chain that starts at `params`."""

    def step(self, key: RngKey, state: Any, potential: Potential) -> tuple[Any, Info]:
        """Return the next state, and what was seen on the way. The key is consumed."""


Observable: TypeAlias = Callable[[Params, Info], Any]
"""`observable(params, info)`: a pytree of arrays to record at a draw, at a position its batch did not shape."""

Trace: TypeAlias = dict[str, Any]
"""What was recorded: name -> array [chain, draw, ...], with a leading [checkpoint] where there are several."""


@struct.dataclass
class Health:
    """Whether to believe an estimate: the numbers behind it, and what they mean in words.

    Attributes:
        failed_draw: per chain, the first draw that is not finite; −1 if all are. Integers [chain].
        rhat: rank-normalised split R-hat (Vehtari et al. 2021) over the chains that stayed finite.
        ess: effective number of draws behind the value.
        drift: change from the first third of the draws to the last, in its standard errors.
        messages: each names a cause and a remedy; empty if nothing is wrong.
        acceptance: mean probability with which steps were accepted; 1 where a sampler rejects nothing.
        heat: what batch noise had added, and was taken off, as a share of the value.
    """

    failed_draw: Any
    rhat: Scalar
    ess: Scalar
    drift: Scalar
    messages: tuple[str, ...] = struct.field(pytree_node=False)
    acceptance: Scalar = 1.0
    heat: Scalar = 0.0

    @property
    def ok(self) -> bool:
        """True if nothing is wrong."""
        return not self.messages


@struct.dataclass
class Estimate:
    """A number with its error; there is no number without one.

    A pytree: `llc_fn` returns it from inside jit, and vmap gives every field a leading axis.

    Attributes:
        value: the estimate, over the chains that stayed finite; NaN if none did.
        std_error: its Monte-Carlo standard error.
        per_chain: the estimate of each chain alone, NaN where a chain failed, floats [chain].
        health: whether to believe it, and what to do if not.
    """

    value: Scalar
    std_error: Scalar
    per_chain: Any
    health: Any
