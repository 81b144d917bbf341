"""The progress bar of a sweep: lanes done, chain-steps per second, time left."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Speed(ProgressColumn):
    """Chain-steps per second."""

    def render(self, task: Task) -> Text:
        """The speed, in thousands where that reads better."""
        if not task.speed:
            return Text("")
        speed = f"{task.speed / 1e3:,.0f}k" if task.speed > 1e4 else f"{task.speed:,.0f}"
        return Text(f"{speed} chain-steps/s")


class _Lanes(MofNCompleteColumn):
    """Lanes done, of how many."""

    def render(self, task: Task) -> Text:
        """A lane is one chain of one checkpoint."""
        steps_a_lane = task.fields["steps_a_lane"]
        return Text(f"{task.completed / steps_a_lane:.0f}/{(task.total or 0) / steps_a_lane:.0f} lanes")


@runtime_checkable
class Report(Protocol):
    """Whom the work is reported to."""

    def advance(self, chain_steps: int) -> None:
        """Told of chain-steps as they are done."""

    def skip(self, chain_steps: int) -> None:
        """Told of chain-steps that need not be done."""

    def say(self, message: str) -> None:
        """Told what a user should know."""


class Silent:
    """A report that nobody reads."""

    def advance(self, chain_steps: int) -> None:
        """Nothing."""

    def skip(self, chain_steps: int) -> None:
        """Nothing."""

    def say(self, message: str) -> None:
        """Nothing."""


class Bar:
    """A report on the screen."""

    def __init__(self, progress: Progress, total: int, steps_a_lane: int) -> None:
        self._progress = progress
        self._task = progress.add_task("sweep", total=total, steps_a_lane=steps_a_lane)

    def advance(self, chain_steps: int) -> None:
        """Count chain-steps as done."""
        self._progress.advance(self._task, chain_steps)

    def skip(self, chain_steps: int) -> None:
        """Count chain-steps as done that took no time: the speed does not tell of them."""
        self._progress.tasks[self._task].completed += chain_steps
        self._progress.update(self._task)

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(message, highlight=False, markup=False)


@contextmanager
def progress_bar(num_lanes: int, steps_a_lane: int, shown: bool) -> Iterator[Bar]:
    """Show a bar on a terminal, on standard error; nothing if not `shown`."""
    from rich.console import Console

    columns = (TextColumn("{task.description}"), BarColumn(), _Lanes(), _Speed(), TimeRemainingColumn())
    console = Console(stderr=True, quiet=not shown)
    with Progress(*columns, console=console) as progress:
        yield Bar(progress, num_lanes * steps_a_lane, steps_a_lane)
