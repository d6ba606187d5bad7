"""
The smallest: one message, and its fate.

    safepulsar broker                   # in another terminal, unless there is a Pulsar
    python examples/01_three_lines.py
"""

from safepulsar import RetryingSender

with RetryingSender("pulsar://localhost:6650", failed_messages="failed/orders.db") as sender:
    sender.send("orders", {"id": 7, "amount": "11.77"}, partition_key="customer-7")
