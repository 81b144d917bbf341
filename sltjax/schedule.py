"""How many chains run, for how long, on how large batches."""

import math

from flax import struct

CHUNKS = 10  # visits to the host a block at least: for a progress bar and Ctrl-C
CHUNK = 50  # draws between them at most: long enough to cost nothing, and one program for runs of any length


@struct.dataclass
class Schedule:
    """How many chains run, for how long, on how large batches.

    Attributes:
        num_chains: chains a checkpoint, at least 2.
        num_draws: recorded draws a chain, at least 4.
        burn_in: steps before the first draw, at most num_draws · thin; rounded up to whole draws.
        thin: steps a draw, the last of which is recorded.
        batch_size: examples a step, drawn with replacement; the number of examples means all of them, once each.
    """

    num_chains: int = struct.field(pytree_node=False)
    num_draws: int = struct.field(pytree_node=False)
    burn_in: int = struct.field(pytree_node=False)
    thin: int = struct.field(pytree_node=False)
    batch_size: int = struct.field(pytree_node=False)

    @property
    def burn_in_draws(self) -> int:
        """Burn-in in units of draws."""
        return math.ceil(self.burn_in / self.thin)

    @property
    def burn_in_steps(self) -> int:
        """Steps before the first draw, in which samplers adapt."""
        return self.burn_in_draws * self.thin

    @property
    def chunk(self) -> int:
        """Draws a visit to the host; in short runs a number by which few are drawn in vain at their end."""
        total = self.burn_in_draws + self.num_draws
        most = min(CHUNK, math.ceil(total / CHUNKS))
        return CHUNK if most == CHUNK else min(range(most, most // 2, -1), key=lambda chunk: -total % chunk)

    @property
    def num_steps(self) -> int:
        """Sampler steps a chain, burn-in included."""
        return (self.burn_in_draws + self.num_draws) * self.thin
