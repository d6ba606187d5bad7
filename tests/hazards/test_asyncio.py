"""
Coroutines: a loop that closes with messages under way, and an await that is cancelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.hazards.trial import ABORTED, told

if TYPE_CHECKING:
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
