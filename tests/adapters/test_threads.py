"""
Threads: contexts that are carried, pools that drain, calls that never block, and producers of one's own.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from safepulsar.adapters.threads import ThreadSender, carry_context
from safepulsar.broker.outcomes import Phase
from safepulsar.errors import (
    DeadlineExceeded,
    InvalidMessage,
    InvalidSettings,
    QueueFull,
    SenderClosed,
    SendFailed,
)
from safepulsar.failed_messages import EVERYTHING
from safepulsar.message import Fate
from safepulsar.request_context import ContextStep, RequestContext, current_context, use_context
from safepulsar.sender import RetryingSender
from safepulsar.settings import Durability, SenderSettings, TopicSettings, WhenFull
from tests.senders import LONG_SECONDS, within
from tests.subprocesses import run_script
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from safepulsar.broker.client_registry import ClientRegistry
    from safepulsar.testing import FakeBroker

_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def _make(broker: FakeBroker, registry: ClientRegistry, **settings: Any) -> RetryingSender:  # noqa: ANN401
    return RetryingSender(
        broker.url,
        settings=SenderSettings(drain_on_sigterm=False, **settings),
        registry=registry,
        steps=[ContextStep()],
    )


@pytest.fixture
def sender(broker: FakeBroker, registry: ClientRegistry) -> Iterator[RetryingSender]:
    """
    A sender for all threads, with room for two messages.
    """
    with _make(broker, registry, max_in_flight_messages=2) as sender:
        yield sender


def _fill(broker: FakeBroker, sender: RetryingSender) -> None:
    broker.hold()
    for _ in range(2):
        sender.submit("orders", b"filling", deadline_seconds=60)


# -- contexts ------------------------------------------------------------------------------------------------------


def test_a_worker_has_the_context_of_its_task(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    Of whoever submitted the task, with the deadline; and none is left for the next task of that worker.
    """
    threads = ThreadSender(sender)
    with threads.pool(max_workers=1) as pool:
        with use_context(RequestContext(traceparent=_PARENT, tenant="acme")):
            pool.submit(threads.send, "orders", b"1").result()
        with use_context(RequestContext(deadline=time.monotonic() - 1)):
            late = pool.submit(threads.send, "orders", b"2")
        pool.submit(threads.send, "orders", b"3").result()
        with pytest.raises(DeadlineExceeded, match="the request's time is over"):
            late.result()
    first, third = broker.messages("orders")
    assert first.properties == {"traceparent": _PARENT, "tenant": "acme"}
    assert (third.payload, third.properties or {}) == (b"3", {})


def test_a_plain_thread_has_the_context_of_its_maker(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    With `thread` or `carry_context`; any other thread has none.
    """
    threads = ThreadSender(sender)
    with use_context(RequestContext(tenant="acme")):
        made = [
            threads.thread(threads.submit, "orders", b"1", partition_key="k"),
            threading.Thread(
                target=carry_context(threads.submit), args=("orders", b"2"), kwargs={"partition_key": "k"}
            ),
            threading.Thread(target=threads.submit, args=("orders", b"3"), kwargs={"partition_key": "k"}),
        ]
    for thread in made:
        thread.start()
        thread.join()
    threads.flush()
    assert [(message.properties or {}).get("tenant") for message in broker.messages("orders")] == ["acme", "acme", None]


def test_a_mapped_task_has_it_too(sender: RetryingSender) -> None:
    """
    `map` goes the same way as `submit`; the function keeps its name.
    """

    def tenant(_number: int) -> str | None:
        context = current_context()
        return None if context is None else context.tenant

    assert carry_context(tenant).__name__ == "tenant"
    with ThreadSender(sender).pool(2) as pool, use_context(RequestContext(tenant="acme")):
        assert list(pool.map(tenant, range(4))) == ["acme"] * 4


# -- pools ---------------------------------------------------------------------------------------------------------


def test_the_end_of_a_pool_drains(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    When the block ends every fate is known; a shutdown that does not wait does not drain.
    """
    threads = ThreadSender(sender)
    with threads.pool(4) as pool:
        tasks = [pool.submit(threads.submit, "orders", str(number)) for number in range(100)]
    assert all(task.result().done() for task in tasks)
    assert len(broker.payloads("orders")) == 100
    assert isinstance(pool, ThreadPoolExecutor)
    broker.hold()
    pool = threads.pool(1)
    task = pool.submit(threads.submit, "orders", b"x")
    with within(0.0):
        pool.shutdown(wait=False)
    assert not task.result().done()
    broker.release()


# -- never blocking ------------------------------------------------------------------------------------------------


def test_with_room_it_is_accepted_here(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    No other thread is needed, and the future is of the fate.
    """
    with ThreadSender(sender) as threads:
        future = threads.submit_nowait("orders", {"id": 1}, partition_key="k", properties={"a": "b"})
        assert future.result(LONG_SECONDS).fate is Fate.DELIVERED
        assert not future.cancel()
        broker.fail_next(1, "AuthorizationError", phase=Phase.CREATE)
        with pytest.raises(SendFailed):
            threads.submit_nowait("elsewhere", b"x").result(LONG_SECONDS)
        assert threads._lane is None
    assert not sender.closed


def test_without_room_somebody_else_waits(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    The call returns at once, and the messages go in their order once there is room.
    """
    with ThreadSender(sender) as threads:
        _fill(broker, sender)
        with within(0.0):
            futures = [threads.submit_nowait("orders", str(number)) for number in range(10)]
        assert not any(future.done() for future in futures)
        broker.release()
        assert {future.result(LONG_SECONDS).fate for future in futures} == {Fate.DELIVERED}
    assert broker.payloads("orders")[2:] == [str(number).encode() for number in range(10)]


def test_the_lane_is_bounded(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    As many wait as may; the next one is refused at once, and nothing of it is sent.
    """
    with ThreadSender(sender, waiting_messages=3) as threads:
        _fill(broker, sender)
        futures = [threads.submit_nowait("orders", b"waits") for _ in range(3)]
        with within(0.0), pytest.raises(QueueFull, match="3 messages wait for room already"):
            threads.submit_nowait("orders", b"refused")
        broker.release()
        for future in futures:
            future.result(LONG_SECONDS)
        assert threads.submit_nowait("orders", b"again").result(LONG_SECONDS).fate is Fate.DELIVERED
    assert b"refused" not in broker.payloads("orders")


def test_what_waits_can_be_cancelled(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    Before it is accepted: it is surely not sent.
    """
    with ThreadSender(sender) as threads:
        _fill(broker, sender)
        first, second = (threads.submit_nowait("orders", name) for name in ("first", "second"))
        wait_until(first.running, "the lane waits with the first")
        assert second.cancel()
        assert not first.cancel()
        broker.release()
        first.result(LONG_SECONDS)
    assert broker.payloads("orders") == [b"filling", b"filling", b"first"]
    assert sender.stats().counts.accepted == 3


def test_the_wait_ends_at_the_deadline(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    Which is that of the call, and of the request that it belongs to.
    """
    with ThreadSender(sender) as threads:
        _fill(broker, sender)
        with within(0.3):
            future = threads.submit_nowait("orders", b"x", deadline_seconds=0.3)
            with use_context(RequestContext(deadline=time.monotonic() + 0.2)):
                other = threads.submit_nowait("orders", b"x")
            for each in (future, other):
                with pytest.raises(QueueFull, match="until the deadline"):
                    each.result(LONG_SECONDS)
        broker.release()


def test_the_context_is_that_of_the_call(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    And so is the data: what changes while it waits is not sent.
    """
    order = {"id": 1}
    with ThreadSender(sender) as threads:
        _fill(broker, sender)
        with use_context(RequestContext(tenant="acme")):
            future = threads.submit_nowait("orders", order)
        order["id"] = 2
        broker.release()
        future.result(LONG_SECONDS)
    last = broker.messages("orders")[-1]
    assert (last.payload, last.properties) == (b'{"id":1}', {"tenant": "acme"})


def test_bad_input_is_refused_at_the_call(sender: RetryingSender) -> None:
    """
    And not by the future.
    """
    threads = ThreadSender(sender)
    with pytest.raises(InvalidMessage):
        threads.submit_nowait("orders", {1: 2})  # type: ignore[dict-item]


@pytest.mark.parametrize("when_full", [WhenFull.RAISE, WhenFull.KEEP])
def test_the_settings_say_what_to_do_without_room(
    broker: FakeBroker, registry: ClientRegistry, when_full: WhenFull
) -> None:
    """
    `RAISE` raises at once, `KEEP` keeps it, here too without blocking.
    """
    with (
        _make(broker, registry, max_in_flight_messages=2, when_full=when_full) as sender,
        ThreadSender(sender) as threads,
    ):
        _fill(broker, sender)
        if when_full is WhenFull.RAISE:
            with pytest.raises(QueueFull):
                threads.submit_nowait("orders", b"x")
        else:
            with pytest.raises(SendFailed):
                threads.submit_nowait("orders", b"x").result(LONG_SECONDS)
            assert sender.failed_messages.count(EVERYTHING) == 1
        broker.release()


def test_closing_hears_those_who_wait(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    What waits for room is accepted once there is some, and then waited for.
    """
    threads = ThreadSender(sender)
    _fill(broker, sender)
    futures = [threads.submit_nowait("orders", b"x") for _ in range(5)]
    threading.Timer(0.2, broker.release).start()
    threads.close()
    assert {future.result(LONG_SECONDS).fate for future in futures} == {Fate.DELIVERED}
    assert len(broker.payloads("orders")) == 7
    sender.close()
    with pytest.raises(SenderClosed):
        threads.submit_nowait("orders", b"x")


def test_a_sender_that_closes_first(broker: FakeBroker, sender: RetryingSender) -> None:
    """
    Those who wait for room are told.
    """
    threads = ThreadSender(sender)
    _fill(broker, sender)
    future = threads.submit_nowait("orders", b"x")
    threading.Timer(0.2, broker.release).start()
    sender.close(0.05)
    with pytest.raises(SenderClosed):
        future.result(LONG_SECONDS)
    threads.close()


def test_at_the_end_of_the_process_they_are_heard() -> None:
    """
    A script that ends with messages waiting for room delivers them: the lane is heard before the sender closes.
    """
    source = """
        import atexit, threading
        from safepulsar import ClientRegistry, RetryingSender, SenderSettings
        from safepulsar.adapters.threads import ThreadSender
        from safepulsar.testing import FakeBroker
        broker = FakeBroker()
        atexit.register(lambda: print([each.result().fate.value for each in futures]))  # the first comes last
        settings = SenderSettings(max_in_flight_messages=1)
        threads = ThreadSender(RetryingSender(broker.url, settings=settings, registry=ClientRegistry(broker.connect)))
        broker.hold()
        futures = [threads.submit_nowait("orders", b"x") for _ in range(5)]
        threading.Timer(0.3, broker.release).start()
    """
    assert run_script(source).check().strip() == str(["DELIVERED"] * 5)


def test_a_forked_child_begins_afresh() -> None:
    """
    What waits in the parent is the parent's; the child can send, and wait for room, itself.
    """
    source = """
        import os
        from safepulsar import ClientRegistry, RetryingSender, SenderSettings
        from safepulsar.adapters.threads import ThreadSender
        from safepulsar.testing import FakeBroker
        broker = FakeBroker()
        settings = SenderSettings(max_in_flight_messages=1, drain_on_sigterm=False)
        sender = RetryingSender(broker.url, settings=settings, registry=ClientRegistry(broker.connect))
        threads = ThreadSender(sender)
        broker.hold()
        futures = [threads.submit_nowait("orders", b"x") for _ in range(3)]
        broker.wait_until(lambda: broker.held == 1)  # the fake, unlike a client, has a lock that a fork must not copy
        child = os.fork()
        if not child:
            mine = FakeBroker()
            own = ThreadSender(RetryingSender(mine.url, registry=ClientRegistry(mine.connect)))
            own.submit_nowait("orders", b"y").result(10)
            assert threads._waiting == 0 and threads._lane is None
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        broker.release()
        print([future.result(10).fate.value for future in futures])
    """
    assert run_script(source).check().strip() == str(["DELIVERED"] * 3)


# -- producers of one's own ----------------------------------------------------------------------------------------


def test_each_thread_has_its_own_producers(broker: FakeBroker, registry: ClientRegistry) -> None:
    """
    By one client; a topic that fails for one thread holds up no other, and all are closed together.
    """
    with ThreadSender(lambda: _make(broker, registry)) as threads:
        ready = threading.Barrier(3)

        def work() -> RetryingSender:
            threads.send("orders", b"x")
            ready.wait(LONG_SECONDS)
            return threads.sender

        with threads.pool(3) as pool:
            senders = [task.result() for task in [pool.submit(work) for _ in range(3)]]
            assert len(set(map(id, senders))) == 3
            assert (broker.counts.clients_open, broker.counts.producers_open) == (1, 3)
        assert threads.flush() == 0
    assert all(sender.closed for sender in senders)
    assert broker.counts.clients_open == 0


def test_the_sender_of_a_thread_that_ended_is_closed(broker: FakeBroker, registry: ClientRegistry) -> None:
    """
    When the next thread makes its own, so that many short threads leave nothing behind.
    """
    senders: list[RetryingSender] = []
    with ThreadSender(lambda: _make(broker, registry)) as threads:

        def work() -> None:
            threads.send("orders", b"x")
            senders.append(threads.sender)

        for _ in range(4):
            thread = threads.thread(work)
            thread.start()
            thread.join()
        assert [sender.closed for sender in senders] == [True, True, True, False]
    assert broker.counts.clients_open == 0


@pytest.mark.parametrize(
    ("sender", "problem"),
    [
        (None, "must be a RetryingSender, or a function that makes one, not NoneType"),
        ("pulsar://localhost", "not str"),
    ],
)
def test_what_is_no_sender_is_refused(sender: Any, problem: str) -> None:  # noqa: ANN401 - bad input
    """
    A typed error at once.
    """
    with pytest.raises(InvalidSettings, match=problem):
        ThreadSender(sender)


def test_a_function_that_makes_none_is_refused(broker: FakeBroker, registry: ClientRegistry) -> None:
    """
    Likewise; and one whose producers have names, because only one thread could have them.
    """
    nothing: Any = lambda: None  # noqa: E731
    with pytest.raises(InvalidSettings, match="the function must return a RetryingSender, not NoneType"):
        ThreadSender(nothing).send("orders", b"x")
    named = {"orders": TopicSettings(producer_name="p")}
    with pytest.raises(InvalidSettings, match="names a producer, which only one thread could have"):
        ThreadSender(lambda: _make(broker, registry, topics=named)).send("orders", b"x")


@pytest.mark.parametrize("number", [0, -1, True, 1.5, "10", 10**9])
def test_a_wrong_bound_is_refused(sender: RetryingSender, number: Any) -> None:  # noqa: ANN401 - bad input
    """
    A typed error at once.
    """
    with pytest.raises(InvalidSettings, match="waiting_messages: must be a whole number from 1"):
        ThreadSender(sender, waiting_messages=number)


def test_futures_are_those_of_the_standard_library(sender: RetryingSender) -> None:
    """
    So that `wait`, `as_completed` and `asyncio.wrap_future` take them.
    """
    with ThreadSender(sender) as threads:
        assert isinstance(threads.submit_nowait("orders", b"x"), Future)


def test_an_outbox_writes_on_another_thread(broker: FakeBroker, registry: ClientRegistry, tmp_path: Path) -> None:
    """
    The disk is not waited for by the call either.
    """
    settings = SenderSettings(
        drain_on_sigterm=False, topics={"orders": TopicSettings(producer_name="p", durability=Durability.OUTBOX)}
    )
    path = tmp_path / "store" / "failed.db"
    with (
        RetryingSender(broker.url, failed_messages=path, settings=settings, registry=registry) as sender,
        ThreadSender(sender) as threads,
    ):
        futures = [threads.submit_nowait("orders", str(number)) for number in range(3)]
        assert threads._lane is not None
        assert {future.result(LONG_SECONDS).fate for future in futures} == {Fate.DELIVERED}
    assert broker.payloads("orders") == [b"0", b"1", b"2"]
