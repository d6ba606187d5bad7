"""
One client per cluster and process: made at the first use, shared, closed after its last user and before the exit.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from safepulsar.broker.pulsar_client import connect as connect_to_pulsar
from safepulsar.errors import InvalidSettings
from safepulsar.processes.process import Stage, process

if TYPE_CHECKING:
    from safepulsar.broker.transport import Connect, TransportClient
    from safepulsar.settings import ClientSettings


class ClientRegistry:
    """
    The clients of this process, one for all equal `ClientSettings`. Thread-safe.

    Making it does nothing; the first `acquire` of some settings makes their client, once, while those of other
    settings are not held up. A client closes when everyone who acquired it has released it, and at exit, after the
    senders. A forked child begins with none: what it inherited is leaked on purpose, because the threads that its
    end would wait for stayed in the parent.

    Settings with a token callable are equal if the callable is equal to the other, which for functions means the same
    one. A lambda that is written anew for each sender makes a client for each; pass one function.

    Args:
        connect: makes a client; the official client's by default.
    """

    def __init__(self, connect: Connect = connect_to_pulsar) -> None:
        self._connect = connect
        self._begin()

    @staticmethod
    def shared() -> ClientRegistry:
        """
        Return the registry of this process.
        """
        return _shared

    def __repr__(self) -> str:
        return f"<ClientRegistry, {len(self.clients())} clients>"

    def acquire(self, settings: ClientSettings) -> TransportClient:
        """
        Return the client of `settings`, made now if it is the first; to be given back by `release`.

        Raises:
            BrokerError: the client library does not take the settings.
            InvalidSettings: as `connect`, or the token callable cannot be hashed.
        """
        try:
            hash(settings)
        except TypeError:
            problem = "this callable cannot be hashed, so clients cannot be shared by it; wrap it into a function"
            raise InvalidSettings("ClientSettings.token", problem) from None
        process.watch(self, Stage.CLIENTS)
        with self._lock:
            entry = self._entries.setdefault(settings, _Entry())
            entry.users += 1
        try:
            with entry.lock:
                if entry.client is None:
                    entry.client = self._connect(settings)
                return entry.client
        except BaseException:
            self.release(settings)
            raise

    def release(self, settings: ClientSettings) -> None:
        """
        Give back what `acquire` returned; its last user closes the client here.

        Does nothing for what is not there any more: at exit all clients close, and a fork leaves them to the parent.
        """
        with self._lock:
            entry = self._entries.get(settings)
            if entry is None:
                return
            entry.users -= 1
            if entry.users > 0:
                return
            client = entry.client
            if client is not None:
                self._leaving.add(client)
            del self._entries[settings]
        if client is not None:
            self._close(client)

    def clients(self) -> dict[ClientSettings, int]:
        """
        Return the clients that are open, with how many users each has.
        """
        with self._lock:
            return {key: entry.users for key, entry in self._entries.items() if entry.client is not None}

    def at_exit(self) -> None:
        """
        Close every client. Whoever still has one gets `AlreadyClosed` from it.
        """
        with self._lock:
            self._leaving.update(entry.client for entry in self._entries.values() if entry.client is not None)
            self._entries.clear()
            leaving = list(self._leaving)
        for client in leaving:
            self._close(client)

    def after_fork(self) -> None:
        """
        Begin anew in a forked child, without the parent's clients.
        """
        for entry in self._entries.values():
            if entry.client is not None:
                entry.client.leak()
        for client in self._leaving:
            client.leak()
        self._begin()

    def _begin(self) -> None:
        # Guards the two below; never held while a client is made or closed. Re-entrant, because a signal handler may
        # release in the middle of another call.
        self._lock = threading.RLock()
        self._entries: dict[ClientSettings, _Entry] = {}
        self._leaving: set[TransportClient] = set()  # being closed, so that the exit finishes what Ctrl-C interrupts

    def _close(self, client: TransportClient) -> None:
        client.close()
        with self._lock:
            self._leaving.discard(client)


class _Entry:
    """
    One client and who uses it.
    """

    def __init__(self) -> None:
        self.users = 0
        self.lock = threading.Lock()  # held by the one that makes the client
        self.client: TransportClient | None = None


_shared = ClientRegistry()
