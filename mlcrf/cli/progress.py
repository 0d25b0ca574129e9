"""Progress of a command on standard error: a bar in a terminal, lines now and then in a log."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Protocol

import typer

_EVERY_S = 30.0
_LOOKED_EVERY_S = 5.0  # at whether a line of a log is due
_SHARE_TO_JUDGE, _TIME_TO_JUDGE_S = 0.02, 60.0  # of the first images, after a network has loaded
_shown: "list[Progress]" = []  # the innermost last


class Whole(Protocol):
    """Work of several tasks."""

    @property
    def title(self) -> str:
        """The task among the others, such as `fit 3 of at most 40`."""
        ...

    @property
    def share(self) -> float:
        """The share of the work that is done."""
        ...

    @property
    def seconds(self) -> float:
        """The seconds that the rest may take."""
        ...


class Progress:
    """The task that a command works on, the share that is done and the time to go.

    In a terminal it is a line that is drawn anew; else a line is printed after every 30 s, also
    while one step takes longer.

    Args:
        hidden: show nothing but lines of `log`.
        clock: seconds from any start, for tests.
    """

    def __init__(
        self,
        task: str = "",
        *,
        hidden: bool = False,
        clock: Callable[[], float] = monotonic,
        write: Callable[[str], None] = lambda line: typer.echo(line, err=True),
    ) -> None:
        self._hidden, self._clock, self._write = hidden, clock, write
        self._task, self._done, self._total = task, 0.0, 0.0
        self._whole: Whole | None = None
        self._began = self._printed = clock()
        self._live: Any = None

    def show(self, task: str, done: float, total: float, *, whole: "Whole | None" = None) -> None:
        """Show that a part of a task is done; a total of 1 is shown as a percentage.

        Time counts from the first call for the task, and anew once its total is known.

        Args:
            whole: the work that the task is a part of, whose share and time to go are shown.
        """
        self._whole = whole
        is_known_now = total and not self._total
        if task != self._task or done < self._done or is_known_now:
            self._began = self._clock()
        self._task, self._done, self._total = task, done, total
        if self._live is not None:
            self._live.refresh()
        else:
            self.tell_if_due()

    def tell_if_due(self) -> None:
        """Print a line if the last one is 30 s ago, unless a bar is drawn."""
        is_due = self._clock() - self._printed >= _EVERY_S
        if is_due and self._live is None and not self._hidden:
            self._printed = self._clock()
            self._write(self.text())

    def advance(self) -> None:
        """Show that one more is done of the task shown."""
        self.show(self._task, min(self._done + 1, self._total), self._total)

    def log(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        self._printed = self._clock()
        if self._live is None:
            self._write(line)
        else:
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def text(self) -> str:
        """Return the task, how much is done, and how long the rest may take."""
        if self._whole is None:
            return self._text_of_task(with_rest=True)
        title, seconds = self._whole.title, self._whole.seconds
        rest = f", about {_duration(seconds)} to go" if seconds >= 1 else ""
        return f"{title}{rest}; {self._text_of_task(with_rest=False)}"

    def _text_of_task(self, *, with_rest: bool) -> str:
        elapsed = self._clock() - self._began
        if not self._total:
            return f"{self._task}: {_duration(elapsed)} so far" if elapsed >= 1 else self._task
        share = min(1.0, self._done / self._total)
        part = f"{share:.0%}" if self._total == 1 else f"{self._done:,.0f} of {self._total:,.0f}"
        if share == 1 or elapsed < 1 or not with_rest:
            return f"{self._task}: {part}"
        if share == 0 or (share < _SHARE_TO_JUDGE and elapsed < _TIME_TO_JUDGE_S):
            return f"{self._task}: {part}, {_duration(elapsed)} so far"
        return f"{self._task}: {part}, about {_duration(elapsed * (1 - share) / share)} to go"

    def __rich__(self) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        done, total = (self._done, self._total or None)
        if self._whole is not None:
            done, total = self._whole.share, 1
        grid.add_row(ProgressBar(total, done, width=20), self.text())
        return grid

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Draw the bar while the body runs, if standard error is a terminal."""
        _shown.append(self)
        try:
            if self._hidden:
                yield
                return
            if not sys.stderr.isatty():
                with _repeating(self.tell_if_due):
                    yield
                return
            from rich.console import Console
            from rich.live import Live

            live = Live(self, console=Console(stderr=True), transient=True)
            with live:
                self._live = live
                yield
        finally:
            self._live = None
            _shown.remove(self)


@contextmanager
def _repeating(act: Callable[[], None], *, every_s: float = _LOOKED_EVERY_S) -> Iterator[None]:
    """Call a function now and then in another thread while the body runs."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(every_s):
            act()

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def shown() -> Progress | None:
    """Return the progress that is shown now, if any."""
    return _shown[-1] if _shown else None


def advance() -> None:
    """Show that one more is done of the task that is shown now, if any."""
    if _shown:
        _shown[-1].advance()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
