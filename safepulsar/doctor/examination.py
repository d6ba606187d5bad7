"""
All checks in order: settings and process first, which need no network, then the broker step by step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.doctor.broker import examine_broker
from safepulsar.doctor.code import examine_code
from safepulsar.doctor.machine import examine_credentials, examine_files, examine_names, examine_place
from safepulsar.doctor.process import examine_fork, examine_library, examine_store
from safepulsar.doctor.settings import examine_batching, examine_message_size, examine_queue, examine_tls
from safepulsar.doctor.timing import examine_closing, examine_rate, examine_resending, examine_retries
from safepulsar.settings import SenderSettings
from safepulsar.topics import TopicNames

if TYPE_CHECKING:
    import os

    from safepulsar.doctor.finding import Finding
    from safepulsar.failed_messages.encryption import PayloadEncryption
    from safepulsar.settings import ClientSettings

PROBE_TOPIC: Final = "safepulsar-doctor"


def examine(
    client: ClientSettings,
    *,
    topic: str | None = None,
    probe: bool = True,
    sender: SenderSettings | None = None,
    failed_messages: str | os.PathLike[str] | None = None,
    encryption: PayloadEncryption | None = None,
    code: str | os.PathLike[str] | None = None,
    registry: ClientRegistry | None = None,
    timeout_seconds: float = 5.0,
) -> list[Finding]:
    """
    Look at everything and return one finding each, in a fixed order and always with the same ids.

    Nothing is ever sent to `topic`: a producer is opened there, and closed. Whether the broker deduplicates shows only
    by sending: two small messages of one sequence id go to the topic `safepulsar-doctor` of the same namespace, which
    the broker may create for it, under a producer name that nobody else has.

    Args:
        client: the cluster.
        topic: where the application sends to; None looks at the topic `safepulsar-doctor` of `public/default`.
        probe: False sends nothing; whether the broker deduplicates is then not known.
        sender: as the application uses them; None are the defaults.
        failed_messages: the path of the application's store, which is not made if it is missing.
        encryption: of the store's payloads, if it is to be seen whether its keys read them.
        code: a file or folder of sources, in which uses of the raw client are looked for; each that is found is one more
            finding, behind the others.
        registry: where to take the client from; the process's own by default.
        timeout_seconds: for each step that asks the broker.

    Raises:
        InvalidTopic: the topic's name is refused.
    """
    sender = SenderSettings() if sender is None else sender
    full = TopicNames(sender.allowed_namespaces).full(PROBE_TOPIC if topic is None else topic)
    registry = ClientRegistry.shared() if registry is None else registry
    probe_topic = f"{full.rpartition('/')[0]}/{PROBE_TOPIC}" if probe else None
    broker = examine_broker(client, full, probe_topic, registry, timeout_seconds)
    return [
        examine_library(),
        examine_tls(client),
        examine_credentials(client),
        examine_queue(sender),
        examine_batching(sender),
        examine_retries(sender),
        examine_closing(sender),
        examine_rate(sender),
        examine_names(sender),
        examine_fork(registry),
        examine_files(),
        examine_store(failed_messages, encryption),
        examine_place(failed_messages),
        *broker.findings,
        examine_resending(sender.retry, broker.findings[-1]),
        examine_message_size(sender, broker.max_message_bytes),
        *([] if code is None else examine_code(code)),
    ]
