"""In this process, on all of its devices, one block after the other."""

from collections.abc import Iterator, Sequence

from sltjax.checkpoints import Source
from sltjax.sweeps.blocks import Job, Known, Outcome, in_blocks
from sltjax.sweeps.progress import Report


def local(
    job: Job, checkpoints: Source, blocks: Sequence[Sequence[int]], known: Known, report: Report
) -> Iterator[tuple[int, Outcome]]:
    """(step, what came of it) for every step that is not known; checkpoints are read ahead of the block that runs."""
    for block in in_blocks(checkpoints, blocks):
        yield from job.outcomes(block, known, report)
