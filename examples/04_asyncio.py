"""
Coroutines that wait for their messages. The loop goes on meanwhile, whatever the broker does.

    python examples/04_asyncio.py
"""

from __future__ import annotations

import asyncio
import os

from safepulsar import SendFailed
from safepulsar.async_sender import AsyncSender

URL = os.environ.get("SAFEPULSAR_URL", "pulsar://localhost:6650")


async def place(sender: AsyncSender, number: int) -> bool:
    """
    Place one order; whether it is in the topic.
    """
    try:
        await sender.send("orders", {"id": number}, partition_key=f"customer-{number % 10}")
    except SendFailed as error:
        print(f"order {number} is kept as {error.failed_message_id}: {error.certainty.value}")
        return False
    return True


async def main() -> None:
    """
    Place a thousand orders at the same time.
    """
    async with AsyncSender(URL, failed_messages="failed/orders.db") as sender:
        placed = await asyncio.gather(*(place(sender, number) for number in range(1000)))
    print(f"{sum(placed)} delivered, {len(placed) - sum(placed)} kept")


if __name__ == "__main__":
    asyncio.run(main())
