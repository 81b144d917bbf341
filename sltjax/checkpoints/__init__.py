"""Training checkpoints as (step, params): one kind of storage a module, one interface (`Source`) for all.

A source lists its steps at once and loads one step at a time. A checkpoint that is broken fails alone, with its reason;
what was never finished is listed as skipped; nothing is ever written.
"""

from sltjax.checkpoints.memory import from_memory
from sltjax.checkpoints.names import Rename, Transform
from sltjax.checkpoints.npz import from_npz
from sltjax.checkpoints.orbax import from_orbax
from sltjax.checkpoints.safetensors import from_safetensors
from sltjax.checkpoints.source import CheckpointError, MismatchError, Skipped, Source, digest, read_ahead

__all__ = [
    "CheckpointError",
    "MismatchError",
    "Rename",
    "Skipped",
    "Source",
    "Transform",
    "digest",
    "from_memory",
    "from_npz",
    "from_orbax",
    "from_safetensors",
    "read_ahead",
]
