"""What a monitor may take of a training's time: an account, and whether the next measurement can be paid."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Budget:
    """Seconds of the monitor against seconds of the whole training, both since its first call.

    A measurement is taken if the account will be within its share afterwards. The first is always taken, and is charged
    with the compilation that it brings: the second waits until that is paid for. What is not spent is there later.

    Attributes:
        share: the monitor's largest share of all the time; None for no limit.
        first: seconds of the first measurement, calibration and compilation included; NaN before it.
        expected: seconds that the next one will take: as many as the last, unless something better is known.
        measured: how many were taken.
        skipped: how many were due, and could not be paid.
    """

    def __init__(self, share: float | None = 0.05, clock: Callable[[], float] = time.perf_counter) -> None:
        if share is not None and not 0 < share < 1:
            raise ValueError(f"budget: got {share}, expected a share of the time between 0 and 1, or None for no limit")
        self.share, self.first = share, math.nan
        self.measured = self.skipped = 0
        self._clock = clock
        self._began: float | None = None
        self._since: float | None = None  # a measurement has been going on
        self._charged = self.expected = 0.0

    def start(self) -> None:
        """Begin to count, if that has not been done."""
        if self._began is None:
            self._began = self._clock()

    @property
    def wall(self) -> float:
        """Seconds since the first call."""
        return 0.0 if self._began is None else self._clock() - self._began

    @property
    def spent(self) -> float:
        """Seconds of all measurements, the first and one that is going on included."""
        return self._charged + (0.0 if self._since is None else self._clock() - self._since)

    @property
    def overhead(self) -> float:
        """The share of the time that was spent so far."""
        wall = self.wall
        return self.spent / wall if wall > 0 else 0.0

    def affords(self) -> bool:
        """Whether one more measurement would keep the account within its share."""
        if self.share is None or self.measured == 0:
            return True
        return self.spent + self.expected <= self.share * (self.wall + self.expected)

    @contextmanager
    def charged(self) -> Iterator[None]:
        """Charge what is done within to the measurement that begins with it, failed or not."""
        self._since = self._clock()
        try:
            yield
        finally:
            seconds, self._since = self._clock() - self._since, None
            self.measured, self.expected = self.measured + 1, 0.0
            self.charge(seconds)

    def charge(self, seconds: float) -> None:
        """Charge seconds to the last measurement."""
        self._charged += seconds
        self.expected += seconds
        if self.measured == 1:
            self.first = self._charged
