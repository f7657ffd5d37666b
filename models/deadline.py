"""When work that somebody waits for shall end: at a time, or as soon as nobody waits for it any more."""

import math
import time


class Deadline:
    """A value of `time.monotonic`, and whether whoever waited has left. Any thread may ask, and may give up."""

    def __init__(self, at: float = math.inf) -> None:
        self.at = at
        self._is_given_up = False

    @property
    def is_over(self) -> bool:
        """Whether nothing more shall be begun."""
        return self._is_given_up or time.monotonic() >= self.at

    @property
    def left_s(self) -> float:
        """Seconds until it is over, at least 0."""
        return 0.0 if self._is_given_up else max(0.0, self.at - time.monotonic())

    def give_up(self) -> None:
        """Say that nobody waits any more."""
        self._is_given_up = True
