"""
Each hazardous use of the raw client is seen in sources, and harmless uses are not.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

import safepulsar
from safepulsar.doctor import Level, examine_code
from safepulsar.errors import InvalidInput

SAFE = """
    import pulsar

    def main():
        client = pulsar.Client("pulsar://localhost:6650", logger=pulsar.ConsoleLogger())
        reader = client.create_reader("t", pulsar.MessageId.earliest)
        client.close()
"""
CASES = {
    "client-at-import": """
        from pulsar import Client as C
        client = C("pulsar://localhost:6650")
        client.close()
        """,
    "client-per-call": """
        import pulsar
        def view(request):
            client = pulsar.Client("pulsar://localhost:6650")
            client.close()
        """,
    "producer-per-message": """
        import pulsar
        def publish(client, data):
            producer = client.create_producer("t")
            producer.send(data)
        """,
    "never-closed": """
        import pulsar
        def main():
            client = pulsar.Client("pulsar://localhost:6650")
        """,
    "asyncio": """
        from pulsar.asyncio import Client
        """,
    "flush-async": """
        import pulsar
        def f(producer):
            producer.flush_async(print)
        """,
    "router": """
        import pulsar
        def f(client):
            return client.create_producer("t", message_router=choose)
        """,
    "logger": """
        import logging, pulsar
        def main():
            pulsar.Client("pulsar://localhost", logger=logging.getLogger("x")).close()
        """,
    "unseen-outcome": """
        import pulsar
        def f(producer):
            producer.send_async(b"x", lambda *_: None)
        """,
    "callback": """
        import pulsar
        def f(producer):
            producer.send_async(b"x", callback=done)
        """,
    "full-queue": """
        import pulsar
        def make(client):
            return client.create_producer("t")
        def f(producer):
            producer.send_async(b"x", done)
        """,
    "slow-batches": """
        import pulsar
        def make(client):
            return client.create_producer("t", batching_enabled=True)
        def f(producer):
            producer.send(b"x")
        """,
    "close-without-flush": """
        import pulsar
        def f(client, producer):
            producer.send_async(b"x", done)
            client.close()
        """,
    "nothing": """
        import pulsar
        def f(producer):
            producer.send(b"x", event_timestamp=0)
        """,
    "mixed-keys": """
        import pulsar
        def make(client):
            return client.create_producer("t", batching_enabled=True, block_if_queue_full=True)
        def f(producer, customer):
            producer.send_async(b"x", done, partition_key=customer)
        """,
    "ids-in-batches": """
        import pulsar
        def make(client):
            return client.create_producer("t", batching_enabled=True, block_if_queue_full=True)
        def f(producer, number):
            producer.send_async(b"x", done, sequence_id=number)
        """,
    "last-sequence-id": """
        import pulsar
        def f(producer):
            return producer.last_sequence_id() + 1
        """,
    "daemon-thread": """
        import threading, pulsar
        def f(producer):
            threading.Thread(target=lambda: producer.send(b"x"), daemon=True).start()
        """,
    "tls-name": """
        import pulsar
        def main():
            pulsar.Client("pulsar+ssl://broker:6651").close()
        """,
}


def write(folder: Path, name: str, text: str) -> Path:
    """
    A source file.
    """
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text), encoding="utf-8")
    return path


@pytest.mark.parametrize("hazard", CASES)
def test_a_hazard_is_seen_where_it_is(hazard: str, tmp_path: Path) -> None:
    """
    With its line and its remedy.
    """
    findings = {finding.id: finding for finding in examine_code(write(tmp_path, "app.py", CASES[hazard]))}
    finding = findings[f"code-{hazard}"]
    assert finding.level is not Level.OK
    assert finding.what.startswith("app.py:")
    assert finding.remedy
    also = set() if hazard == "callback" else {"callback"} & {name.removeprefix("code-") for name in findings}
    assert {name.removeprefix("code-") for name in findings} - also == {hazard}


@pytest.mark.parametrize(
    "text",
    [
        SAFE,
        "from safepulsar import RetryingSender\nsender = RetryingSender('pulsar://x')\nsender.send('t', b'')\n",
        "import httpx\nclient = httpx.Client()\nclient.send_async(b'x')\n",
        "import pulsar\ndef f(p, key, at):\n    p.send(b'x', partition_key=key, event_timestamp=at, sequence_id=None)\n",
        "import pulsar, threading\ndef f(p):\n    threading.Thread(target=p.send).start()\n",
        "import pulsar\nif __name__ == '__main__':\n    pulsar.Client('pulsar://x').close()\n",
        "this is no Python\n",
        "",
    ],
    ids=[
        "raw, as it should be",
        "safepulsar",
        "another client",
        "with a key",
        "a thread",
        "a script",
        "no Python",
        "empty",
    ],
)
def test_what_is_harmless_is_not(text: str, tmp_path: Path) -> None:
    """
    No false alarm.
    """
    (finding,) = examine_code(write(tmp_path, "app.py", text))
    assert (finding.id, finding.level, finding.remedy) == ("code", Level.OK, "")


def test_a_folder_is_looked_through(tmp_path: Path) -> None:
    """
    Without what others wrote, and naming a few places of many.
    """
    for number in range(7):
        write(tmp_path, f"shop/view_{number}.py", CASES["flush-async"])
    write(tmp_path, ".venv/lib/x.py", CASES["router"])
    (finding,) = examine_code(tmp_path)
    assert finding.id == "code-flush-async"
    assert finding.what.count("shop/view_") == 5
    assert " and 2 more: " in finding.what


def test_the_package_itself_is_clean() -> None:
    """
    Of everything that is a hazard to others, ours alone are the places that make it harmless.
    """
    ids = {finding.id for finding in examine_code(Path(safepulsar.__file__).parent)}
    assert ids <= {"code", "code-client-per-call", "code-never-closed", "code-callback", "code-full-queue"}


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    """
    A typing error is no clean bill of health.
    """
    with pytest.raises(InvalidInput, match=r"--code: there is nothing"):
        examine_code(tmp_path / "nothing")
