"""Two progress bars on a terminal, for this run and for the whole table; elsewhere, one message for each run."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

#: the time left is estimated from this many past seconds, since methods differ in speed
SPEED_WINDOW_S = 300.0


class Bars:
    """A context in which `run` and `step` move the bars; silent where `shown` is False (ranks other than 0)."""

    def __init__(self, console: Console, *, runs: int, epochs: int, shown: bool = True) -> None:
        self.console, self.epochs = console, epochs
        self.bars = Progress(
            TextColumn("{task.description:<34}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=SPEED_WINDOW_S,
            disable=not (shown and console.is_terminal),
        )
        self.shown = shown
        self.table = self.bars.add_task("table", total=runs * epochs, unit="epochs")
        self.current = self.bars.add_task("", total=1, unit="steps", visible=False)
        self.started = time.monotonic()
        self.steps_of_run = 1

    def run(self, label: str, steps: int, first_step: int = 0) -> None:
        """Start the bar of a new run."""
        self.steps_of_run = steps
        self.bars.reset(self.current, total=steps, completed=first_step, description=label, visible=True)

    def step(self) -> None:
        """Advance both bars by one step."""
        self.bars.advance(self.current)
        self.bars.advance(self.table, self.epochs / self.steps_of_run)

    def say(self, line: str) -> None:
        """Print a message above the bars."""
        if self.shown:
            self.console.print(line, highlight=False)

    def __enter__(self) -> Bars:
        self.bars.start()
        return self

    def __exit__(self, kind: type | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self.bars.stop()
