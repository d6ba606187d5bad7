"""
A bar on standard error, where that is a terminal; elsewhere nothing.

The bar looks at the work from outside, at its own pace: the work never waits for it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from safepulsar.cli.terminal import ERR, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType
    from rich.progress import Task


@contextlib.contextmanager
def progress_bar(
    title: str, *, total: int | None, done: Callable[[], int], numbers: Callable[[], str]
) -> Iterator[None]:
    """
    Show a bar until the end of the `with` block, and then take it away.

    Args:
        title: what is going on.
        total: of what `done` counts; None if that is not known.
        done: how much of it; called on the bar's own thread.
        numbers: what else to show behind it; likewise.
    """
    if not ERR.is_terminal:
        yield
        return
    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn(bar_width=24)]
    if total is not None:
        columns += [TaskProgressColumn(), TimeRemainingColumn(compact=True)]
    with _Watched(*columns, _Numbers(numbers), done=done) as progress:
        progress.add_task(visible(title), total=total)
        yield


class _Watched(Progress):
    """
    Asks how far the work is whenever it is drawn.
    """

    def __init__(self, *columns: ProgressColumn, done: Callable[[], int]) -> None:
        self._done = done
        # Output that is redirected stays as it is: JSON must not be broken at the width of the terminal.
        super().__init__(*columns, console=ERR, transient=True, redirect_stdout=False, redirect_stderr=False)

    def get_renderable(self) -> RenderableType:
        """
        The bar as it stands now.
        """
        for task in self.tasks:
            self.update(task.id, completed=self._done())
        return super().get_renderable()


class _Numbers(ProgressColumn):
    """
    A text that is asked for at each drawing.
    """

    def __init__(self, numbers: Callable[[], str]) -> None:
        super().__init__()
        self._numbers = numbers

    def render(self, task: Task) -> Text:  # noqa: ARG002 - rich calls it so
        """
        The numbers as they stand now.
        """
        return Text(self._numbers())
