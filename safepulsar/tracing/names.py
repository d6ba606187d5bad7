"""
Attributes of OpenTelemetry's semantic conventions 1.44.0, whose package is not needed for them, and our own.
"""

from typing import Final

SCHEMA: Final = "https://opentelemetry.io/schemas/1.44.0"

BATCH_MESSAGE_COUNT: Final = "messaging.batch.message_count"
DESTINATION_NAME: Final = "messaging.destination.name"
DESTINATION_PARTITION_ID: Final = "messaging.destination.partition.id"
DESTINATION_SUBSCRIPTION_NAME: Final = "messaging.destination.subscription.name"
ERROR_TYPE: Final = "error.type"
MESSAGE_BODY_SIZE: Final = "messaging.message.body.size"
MESSAGE_ID: Final = "messaging.message.id"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
SYSTEM: Final = "messaging.system"
PULSAR: Final = "pulsar"

# There is no `messaging.pulsar.*`.
ATTEMPT: Final = "safepulsar.attempt"
CERTAINTY: Final = "safepulsar.certainty"
DELAY_SECONDS: Final = "safepulsar.delay_seconds"
DUPLICATE: Final = "safepulsar.duplicate"
FAILED_MESSAGE_ID: Final = "safepulsar.failed_message_id"
MAYBE_STORED: Final = "safepulsar.maybe_stored"
OUTCOME: Final = "safepulsar.outcome"

RETRY_EVENT: Final = "safepulsar.retry"
