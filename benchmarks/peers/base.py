# SPDX-License-Identifier: Apache-2.0
"""A peer makes tasks of problems; a task can be called and timed. Timing and parity know no more of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from benchmarks.cases import Case
from benchmarks.problem import Array, Problem


class Task(ABC):
    """One library ready to run one case."""

    #: work before each call that is not part of it, such as dropping the last gradients
    prepare: Callable[[], None] | None = None

    @abstractmethod
    def call(self) -> None:
        """Do what the case says, once. Only this is timed."""

    @abstractmethod
    def results(self) -> dict[str, Array]:
        """The results of the last call, by our names: y, dx, d<parameter>; loss and parameters of a step case."""

    def begin(self) -> None:  # noqa: B027
        """Called before some calls in a row; not timed."""

    def end(self) -> None:  # noqa: B027
        """Called after them; not timed."""

    def checked(self) -> None:  # noqa: B027
        """Called once, between the check of parity and the timing."""

    def close(self) -> None:  # noqa: B027
        """Release what would outlive the process."""


class Peer(ABC):
    """A library in its best documented mode."""

    #: distributions whose versions the report names
    distributions: tuple[str, ...] = ()
    #: the arithmetic of its products, as `Case.arithmetic`; empty: whatever the case has
    arithmetic: str = "full"

    def setup(self, threads: int) -> None:  # noqa: B027
        """Set the number of threads, before any work. The environment is set already (see worker.environment)."""

    def note(self) -> str:
        """What the report says of it on this machine, such as the arithmetic that it chose; after `setup`."""
        return ""

    def skips(self, case: Case, threads: int) -> str:
        """Why that case is not compared with this peer; empty if it is."""
        if self.arithmetic not in ("", case.arithmetic):
            return f"has products of the kind {self.arithmetic}, not {case.arithmetic}"
        return self.refuses(case, threads)

    @abstractmethod
    def refuses(self, case: Case, threads: int) -> str:
        """Why this peer does not run that case, whose arithmetic it has; empty if it does."""

    @abstractmethod
    def make(self, problem: Problem) -> Task:
        """Make a task with the problem's weights."""
