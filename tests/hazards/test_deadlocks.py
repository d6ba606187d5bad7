"""
Calls of the client library that stop the whole program for ever: its asynchronous flush, and routers written in Python.
"""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import safepulsar
from tests.hazards.conftest import PARTITIONS
from tests.hazards.trial import CRASHED, HUNG, told

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hazards.trial import Trial
    from tests.subprocesses import ScriptResult

_NEVER_NAMED: Final = {"flush_async", "message_router", "partitions_routing_mode"}


# A program that is only slow beats on until the alarm, 20 times.
_HEART: Final = """
signal.alarm(5)
def beat():
    while True:
        print("beat", flush=True)
        time.sleep(0.25)
threading.Thread(target=beat, daemon=True).start()
"""


def _check_frozen(result: ScriptResult) -> None:
    assert result.check(HUNG).count("beat") < 10


def test_control_flush_async_freezes_the_program(trial: Trial) -> None:
    """
    The client library's asynchronous flush, called in callbacks while eight threads send, freezes all of them for ever.
    """
    _check_frozen(
        trial.raw(
            """
            producer = client.create_producer(topic, batching_enabled=True, max_pending_messages=0)
            def callback(result, message_id):
                producer._producer.flush_async(lambda result: None)
            def load():
                for _ in range(5000):
                    producer.send_async(b"x", callback)
            threads = [threading.Thread(target=load) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            """,
            before=_HEART,
        )
    )


def test_control_a_router_freezes_the_program(partitioned_trial: Trial) -> None:
    """
    A message router beside `last_sequence_id` in another thread freezes the official client's program for ever.
    """
    _check_frozen(
        partitioned_trial.raw(
            """
            producer = client.create_producer(
                topic, max_pending_messages=0, message_router=lambda message, partitions: 0,
                message_routing_mode=pulsar.PartitionsRoutingMode.CustomPartition,
            )
            def look():
                while True:
                    producer.last_sequence_id()
            for _ in range(2):
                threading.Thread(target=look, daemon=True).start()
            for _ in range(100_000):
                producer.send_async(b"x", None)
            """,
            before=_HEART,
        )
    )


def test_control_a_raising_router_crashes(partitioned_trial: Trial) -> None:
    """
    A message router that raises crashes the official client's program.
    """
    partitioned_trial.raw(
        """
        def router(message, partitions):
            raise ValueError("oh")
        producer = client.create_producer(
            topic, message_router=router, message_routing_mode=pulsar.PartitionsRoutingMode.CustomPartition
        )
        producer.send_async(b"x", None)
        """
    ).check(CRASHED)


def test_control_routing_without_a_router_crashes(partitioned_trial: Trial) -> None:
    """
    A producer of the official client that is to route by a router, and was given none, crashes at its first send.
    """
    partitioned_trial.raw(
        """
        producer = client.create_producer(topic, message_routing_mode=pulsar.PartitionsRoutingMode.CustomPartition)
        producer.send(b"x")
        """
    ).check(CRASHED)


def test_what_can_freeze_is_never_named() -> None:
    """
    No line of safepulsar names the asynchronous flush or a message router.
    """
    package = Path(safepulsar.__file__).parent
    # The doctor names them to find them in other people's code.
    modules = [module for module in package.rglob("*.py") if module != package / "doctor" / "code.py"]
    assert len(modules) > 30
    for module in modules:
        assert not _NEVER_NAMED & set(_names(module)), module


def _names(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        for part in ("id", "attr", "arg", "name", "value"):  # names, attributes, keywords, imports, texts
            if isinstance(word := getattr(node, part, None), str):
                yield word


def test_flushing_and_looking_while_sending(partitioned_trial: Trial) -> None:
    """
    Eight threads send to a partitioned topic, flush, and look at the state, also in callbacks, and all is delivered.
    """
    facts = told(
        partitioned_trial.safe(
            """
            sender = make_sender()
            def look(handle=None):
                sender.flush(0.001)
                sender.stats()
            def load(thread):
                for number in range(250):
                    handle = sender.submit(topic, b"%d-%d" % (thread, number), partition_key=str(thread))
                    if number % 50 == 0:
                        handle.add_done_callback(look)
                        look()
            threads = [threading.Thread(target=load, args=(thread,)) for thread in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            tell(delivered=sender.close().counts.delivered)
            """
        )
    )
    assert facts == {"delivered": 2000}
    found: list[bytes] = []
    for partition in range(PARTITIONS):
        found += replace(partitioned_trial, topic=f"{partitioned_trial.topic}-partition-{partition}").payloads()
    for thread in range(8):
        mine = [payload for payload in found if payload.startswith(b"%d-" % thread)]
        assert mine == [b"%d-%d" % (thread, number) for number in range(250)]
