"""
What settings mean for safety, beside what the raw client does when it is told nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safepulsar.doctor.finding import Finding, Level
from safepulsar.doctor.handshake import addresses
from safepulsar.settings import WhenFull

if TYPE_CHECKING:
    from safepulsar.settings import ClientSettings, SenderSettings


def examine_tls(client: ClientSettings) -> Finding:
    """
    Whether somebody on the way could read, or pose as the broker.
    """
    what, level, remedy = "", Level.BAD, ""
    if not client.tls:
        if all(_is_loopback(host) for host, _ in addresses(client.url)):
            level, what = Level.OK, "no TLS, and none needed: the connection does not leave this machine"
        else:
            level = Level.WARN
            what = "no TLS: everybody on the way can read and change messages"
            remedy = "use pulsar+ssl:// and the broker's TLS port, usually 6651"
    elif client.tls_allow_insecure_connection:
        what = "TLS with any certificate: anybody on the way can pose as the broker"
        remedy = "leave tls_allow_insecure_connection out, and name the CA in tls_trust_certs_file"
    elif not client.tls_validate_hostname:
        what = "TLS without a look at the host name (the raw client's default): any server of the same CA can pose as the broker"
        remedy = "leave tls_validate_hostname=True, and give the broker a certificate with its host name"
    else:
        level, what = (
            Level.OK,
            "TLS with certificate and host name validated (the raw client does not look at the name)",
        )
    return Finding(id="tls", level=level, what=what, remedy=remedy)


def examine_queue(sender: SenderSettings) -> Finding:
    """
    What happens to a message for which there is no room.
    """
    bound = f"at most {sender.max_in_flight_messages:,} messages and {sender.max_in_flight_bytes:,} bytes in flight"
    level, remedy = Level.OK, ""
    if sender.when_full is WhenFull.BLOCK:
        what = f"{bound}; then a call waits until its deadline ({sender.deadline_seconds:g} s)"
    elif sender.when_full is WhenFull.KEEP:
        what = f"{bound}; then messages are kept in the store, out of order with those in flight"
        level, remedy = Level.WARN, "replay them, or use WhenFull.BLOCK"
    else:
        what = f"{bound}; then a call raises QueueFull, and its message is the caller's to save"
        level, remedy = Level.WARN, "catch QueueFull, or use WhenFull.BLOCK or WhenFull.KEEP"
    raw = "the raw client bounds no bytes and tells a full queue to a callback only"
    return Finding(id="queue-full", level=level, what=f"{what} ({raw})", remedy=remedy)


def examine_batching(sender: SenderSettings) -> Finding:
    """
    Whether batches could break order, or make waiting slow.
    """
    mixing = [name for name, settings in sender.topics.items() if settings.mix_keys]
    if sender.topic_defaults.mix_keys:
        mixing.append("all others")
    if mixing:
        return Finding(
            id="batching",
            level=Level.WARN,
            what=f"batches mix keys (mix_keys of {', '.join(mixing)}): a Key_Shared subscription loses the order per key",
            remedy="leave mix_keys out where a topic is read by Key_Shared",
        )
    most = sender.topic_defaults.batch_max_messages
    return Finding(
        id="batching",
        level=Level.OK,
        what=f"batches of up to {most:,} messages without a key, closed at once when someone waits; messages with a key go "
        "one by one (with the raw client's batching, every send that waits takes 10 ms longer)",
    )


def examine_message_size(sender: SenderSettings, broker_max_bytes: int | None) -> Finding:
    """
    Whether the broker takes what the sender lets through.
    """
    ours = sender.max_message_bytes
    if broker_max_bytes is None:
        level, what, remedy = Level.WARN, f"up to {ours:,} bytes; the broker's own limit is not known", ""
    elif ours > broker_max_bytes:
        level = Level.BAD
        what = f"the sender takes messages of up to {ours:,} bytes, the broker only of {broker_max_bytes:,}"
        remedy = f"set max_message_bytes some KiB below {broker_max_bytes:,}, or raise the broker's maxMessageSize"
    else:
        level, what, remedy = Level.OK, f"up to {ours:,} bytes; the broker takes {broker_max_bytes:,}", ""
    return Finding(id="message-size", level=level, what=what, remedy=remedy)


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
