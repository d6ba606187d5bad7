"""
Coroutines: a loop that closes with messages under way, and an await that is cancelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.hazards.trial import ABORTED, told
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.brokers import RealBroker
    from tests.hazards.trial import Trial


def test_control_a_closed_loop_aborts(own_trial: Trial) -> None:
    """
    A loop closes with a send of the official client under way; when that times out, the program is aborted.
    """
    own_trial.plain(
        """
        import asyncio, pulsar, pulsar.asyncio
        async def main():
            client = pulsar.asyncio.Client(url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
            producer = await client.create_producer(topic, send_timeout_millis=600)
            freeze()
            asyncio.ensure_future(producer.send(b"x"))
            await asyncio.sleep(0)  # until it has begun
            return client, producer
        kept = asyncio.run(main())
        time.sleep(10)
        """
    ).check(ABORTED)


def test_a_closed_loop_changes_nothing(own_trial: Trial) -> None:
    """
    A loop closes while coroutines await messages: the program goes on, and the messages are delivered.
    """
    facts = told(
        own_trial.safe(
            """
            import asyncio
            sender = make_sender()
            async def wait_for(handle):
                await handle
            async def main():
                sender.send(topic, b"first")
                freeze()
                handles = [sender.submit(topic, b"%d" % number) for number in range(10)]
                waiting = [asyncio.ensure_future(wait_for(handle)) for handle in handles]
                await asyncio.sleep(0)  # until they wait
                return handles
            handles = asyncio.run(main())
            thaw()
            fates = {handle.result().fate.value for handle in handles}
            report = sender.close()
            tell(fates=list(fates), delivered=report.counts.delivered, clean=report.clean)
            """
        )
    )
    assert facts == {"fates": ["DELIVERED"], "delivered": 11, "clean": True}
    assert own_trial.payloads(until=11) == [b"first", *(b"%d" % number for number in range(10))]


def test_control_a_cancelled_send_is_sent(own_trial: Trial) -> None:
    """
    A cancelled send of the official client stands in the topic, and its task can only say that it was cancelled.
    """
    facts = told(
        own_trial.plain(
            """
            import asyncio, pulsar, pulsar.asyncio
            async def main():
                client = pulsar.asyncio.Client(url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
                producer = await client.create_producer(topic)
                freeze()
                try:
                    await asyncio.wait_for(producer.send(b"x"), 0.3)
                except asyncio.TimeoutError:
                    thaw()
                    tell(told="nothing")
                await producer.flush()
                await client.close()
            asyncio.run(main())
            """
        )
    )
    assert facts == {"told": "nothing"}
    assert own_trial.payloads(until=1) == [b"x"]


def test_a_cancelled_await_is_accounted_for(own_trial: Trial) -> None:
    """
    Cancelling an await ends the wait and not the message: its handle still tells its fate, and the books have it.
    """
    facts = told(
        own_trial.safe(
            """
            import asyncio
            sender = make_sender()
            async def main():
                sender.send(topic, b"first")
                freeze()
                handle = sender.submit(topic, b"x")
                async def wait():
                    return await handle
                try:
                    await asyncio.wait_for(wait(), 0.3)
                except asyncio.TimeoutError:
                    thaw()
                return (await handle).fate.value
            fate = asyncio.run(main())
            counts = sender.close().counts
            tell(fate=fate, accepted=counts.accepted, delivered=counts.delivered)
            """
        )
    )
    assert facts == {"fate": "DELIVERED", "accepted": 2, "delivered": 2}
    assert own_trial.payloads(until=2) == [b"first", b"x"]


def test_control_a_cancelled_open_leaves_a_producer(real_trial: Trial, pulsar_broker: RealBroker) -> None:
    """
    Each cancelled opening of a producer of the official client leaves one open on the broker that nobody can close.
    """
    facts = told(
        real_trial.plain(
            """
            import asyncio, urllib.request, pulsar, pulsar.asyncio
            statistics = sys.argv[5]
            async def main():
                client = pulsar.asyncio.Client(url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
                await (await client.create_producer(topic)).close()  # from here on the topic is there
                opening = [asyncio.ensure_future(client.create_producer(topic)) for _ in range(10)]
                await asyncio.sleep(0)  # until they have begun
                for each in opening:
                    each.cancel()
                await asyncio.wait(opening)
                on_the_broker = 0
                while on_the_broker < 10:
                    with urllib.request.urlopen(statistics) as answer:
                        on_the_broker = len(json.load(answer)["publishers"])
                    await asyncio.sleep(0.05)
                tell(cancelled=sum(each.cancelled() for each in opening), on_the_broker=on_the_broker)
                os._exit(0)  # its further life is another matter
            asyncio.run(main())
            """,
            pulsar_broker.admin.statistics_url(real_trial.topic),
        )
    )
    assert facts == {"cancelled": 10, "on_the_broker": 10}


def test_a_message_that_is_too_late_leaves_no_producer(real_trial: Trial, pulsar_broker: RealBroker) -> None:
    """
    Messages whose time is over before their producer is open are kept; the producer that comes later is the next ones'.
    """
    facts = told(
        real_trial.safe(
            """
            from safepulsar import TopicSettings
            with make_sender(topic_defaults=TopicSettings(producer_name="shop")) as sender:
                late = [sender.submit(topic, b"late", deadline_seconds=0.001) for _ in range(10)]
                codes = {type(handle.exception()).__name__ for handle in late}
                fate = sender.send(topic, b"x").fate.value
                tell(codes=sorted(codes), fate=fate, kept=sender.stats().counts.failed)
            """
        )
    )
    assert facts == {"codes": ["SendFailed"], "fate": "DELIVERED", "kept": 10}
    wait_until(lambda: pulsar_broker.admin.producer_count(real_trial.topic) == 0, "the only producer is closed")
    assert real_trial.payloads(until=1) == [b"x"]
