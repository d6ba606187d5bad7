"""
What comes from outside: a server that is another than it should be, and names of topics.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.hazards.trial import told

if TYPE_CHECKING:
    from tests.hazards.trial import Trial

_KEYS: Final = Path(__file__).parents[1] / "keys"

# Its certificate is in order, and trusted, but it is other.example's.
_IMPOSTOR: Final = """
import contextlib, socket, ssl
keys = sys.argv[5]
certificate = f"{keys}/other.example.crt"
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, f"{keys}/other.example.key")
listener = socket.create_server(("127.0.0.1", 0))
tls_url = f"pulsar+ssl://127.0.0.1:{listener.getsockname()[1]}"
received = []
def listen():
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
                received.append(secure.recv(10_000).decode("latin-1"))
threading.Thread(target=listen, daemon=True).start()
"""


def test_control_any_server_with_a_certificate_is_believed(trial: Trial) -> None:
    """
    The official client, over TLS, gives its token to a server whose certificate is for another name.
    """
    facts = told(
        trial.plain(
            """
            import pulsar
            client = pulsar.Client(
                tls_url, tls_trust_certs_file_path=certificate, authentication=pulsar.AuthenticationToken("the-token"),
                operation_timeout_seconds=2, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error),
            )
            try:
                client.create_producer(topic)
            except pulsar.PulsarException:
                tell(given=any("the-token" in each for each in received))
            client.close()
            """,
            _KEYS,
            before=_IMPOSTOR,
        )
    )
    assert facts == {"given": True}


def test_server_with_another_name_is_refused(trial: Trial) -> None:
    """
    A server whose certificate is for another name gets nothing, unless a setting says so.
    """
    facts = told(
        trial.safe(
            """
            from safepulsar import ClientSettings
            def send_to_impostor(**more):
                received.clear()
                settings = ClientSettings(
                    url=tls_url, tls_trust_certs_file=certificate, token="the-token", operation_timeout_seconds=2, **more
                )
                with RetryingSender(settings) as sender:
                    try:
                        sender.send(topic, b"x", deadline_seconds=2)
                    except safepulsar.SendFailed:
                        return any("the-token" in each for each in received)
            tell(default=send_to_impostor(), unchecked=send_to_impostor(tls_validate_hostname=False))
            """,
            _KEYS,
            before=_IMPOSTOR,
        )
    )
    assert facts == {"default": False, "unchecked": True}


def test_control_strange_topics_are_made(real_trial: Trial) -> None:
    """
    With the official client whatever came from outside becomes a topic: dots, line breaks, one partition of another.
    """
    facts = told(
        real_trial.raw(
            """
            made = {}
            for name in ("persistent://public/default/../../x", "x\\n", "orders-partition-3"):
                made[name] = client.create_producer(name).topic()
            tell(**made)
            client.close()
            """
        )
    )
    assert facts == {
        "persistent://public/default/../../x": "persistent://public/default/../../x",
        "x\n": "persistent://public/default/x\n",
        "orders-partition-3": "persistent://public/default/orders-partition-3",
    }


@pytest.mark.parametrize(
    "name",
    [
        *("persistent://public/default/../../x", "x\n", "orders-partition-3"),
        *("", "..", "../../x", "/etc/passwd", "public/default/../other", "x y", "x\u202e", "http://x/y/z", "a/b/c/d"),
    ],
)
def test_strange_topics_are_refused(trial: Trial, name: str) -> None:
    """
    A topic name that is not one is refused before anything is sent, with a typed error.
    """
    facts = told(
        trial.safe(
            """
            name = json.loads(sys.argv[5])
            with make_sender() as sender:
                try:
                    sender.send(name, b"x")
                except safepulsar.InvalidTopic as error:
                    tell(field=error.field, accepted=sender.stats().counts.accepted)
            """,
            json.dumps(name),
        )
    )
    assert facts == {"field": "topic", "accepted": 0}


def test_topics_stay_in_the_namespaces_allowed(trial: Trial) -> None:
    """
    Where the settings name namespaces, a topic elsewhere is refused.
    """
    facts = told(
        trial.safe(
            """
            with make_sender(allowed_namespaces=("public/default",)) as sender:
                sender.send(topic, b"x")
                try:
                    sender.send("other/tenant/orders", b"x")
                except safepulsar.InvalidTopic as error:
                    tell(text=str(error))
            """
        )
    )
    assert "allowed_namespaces" in facts["text"]
