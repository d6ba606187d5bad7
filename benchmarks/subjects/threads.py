"""
Does one shared producer scale with threads, or is it better to have several? The usual table, measured here.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import ours, raw
from benchmarks.case import Case, Goal
from benchmarks.measuring import repeat, side_by_side, timed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pulsar

    from benchmarks.case import Contender, Sample, Scene

_SHARED, _OWN, _SEVERAL = "raw, one shared producer", "raw, one producer per thread", "raw, four producers in turn"
_OURS = "safepulsar, one shared sender"
_THREADS = (1, 4, 8)
_FOUR = 4


@contextmanager
def table(scene: Scene, threads: int) -> Iterator[dict[str, Contender]]:
    """
    So many threads on one topic: all on one producer, each on its own, all on four in turn, all on one sender.
    """
    count, topic = scene.effort.messages, scene.topic("raw")
    with raw.client(scene.url) as client, ours.sender(scene) as sender, ExitStack() as opened:
        producers = [opened.enter_context(raw.producer(client, topic)) for _ in range(max(threads, _FOUR))]
        submit = partial(sender.submit, scene.topic("ours"), scene.payload)
        yield {
            _SHARED: partial(_send, scene, [producers[:1]] * threads),
            _OWN: partial(_send, scene, [[each] for each in producers[:threads]]),
            _SEVERAL: partial(_send, scene, [producers[:_FOUR]] * threads),
            _OURS: lambda: ours.submit(sender, count, submit, threads=threads),
        }


def _send(scene: Scene, of_threads: list[list[pulsar.Producer]]) -> Sample:
    """
    Let each thread send its share to its producers in turn.
    """
    threads = len(of_threads)
    share = scene.effort.messages // threads
    found, callback = raw.answers()

    def work(number: int) -> None:
        mine = of_threads[number]
        # In runs of a hundred, so that the choice costs nothing beside the sends.
        for start in range(0, share, 100):
            to = mine[(number + start // 100) % len(mine)]
            send: Callable[[], object] = partial(to.send_async, scene.payload, callback)
            repeat(min(100, share - start), send)

    def everything() -> None:
        side_by_side(threads, work)
        for each in {id(one): one for mine in of_threads for one in mine}.values():
            each.flush()
        raw.wait_for(found, share * threads)

    return timed(share * threads, everything)


CASES = [
    Case(
        name=f"threads-{threads}",
        title=f"producers and {threads} thread{'s' if threads > 1 else ''}",
        subject="threads",
        prepare=partial(table, threads=threads),
        goals=(
            Goal(name="one producer per thread, to a shared one", ours=_OWN, against=(_SHARED,)),
            Goal(name="four producers, to a shared one", ours=_SEVERAL, against=(_SHARED,)),
            Goal(name="safepulsar, to a shared producer", ours=_OURS, against=(_SHARED,)),
        ),
        sizes=(100,),
        series="producers by threads",
        x=threads,
    )
    for threads in _THREADS
]
