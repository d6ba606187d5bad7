# What the benchmarks use of it.

import pulsar

class Producer:
    async def send(self, content: bytes) -> pulsar.MessageId: ...
    async def close(self) -> None: ...

class Client:
    def __init__(self, service_url: str, *, logger: pulsar.ConsoleLogger | None = None) -> None: ...
    async def create_producer(
        self,
        topic: str,
        *,
        max_pending_messages: int = 1000,
        batching_enabled: bool = True,
        batching_max_publish_delay_ms: int = 10,
    ) -> Producer: ...
    async def close(self) -> None: ...
