"""
What a topic's payloads are, as the broker is told: it refuses producers and consumers of a schema that does not fit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum

from safepulsar.errors import InvalidSettings
from safepulsar.settings.base import Settings, check_enum, check_text


class SchemaKind(str, Enum):
    """
    Pulsar's kinds of schemas for messages.
    """

    STRING = "STRING"
    JSON = "JSON"
    AVRO = "AVRO"
    PROTOBUF = "PROTOBUF"
    PROTOBUF_NATIVE = "PROTOBUF_NATIVE"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Schema(Settings):
    """
    One schema, registered with the broker when a producer opens. Serializers that know theirs have it as `schema`.

    The broker does not look at payloads: that they are what the schema says is the serializer's part.

    Args:
        kind: see `SchemaKind`.
        name: shown by Pulsar's tools.
        definition: JSON text. Of JSON, AVRO and PROTOBUF an Avro schema, of PROTOBUF_NATIVE what Pulsar's clients
            make of a message's descriptor; STRING has none.
    """

    kind: SchemaKind = SchemaKind.JSON
    name: str = ""
    definition: str = ""

    def __post_init__(self) -> None:
        """
        Refuse what the broker could not read.
        """
        check_enum("Schema", "kind", self.kind, SchemaKind)
        if self.name != "":
            check_text("Schema", "name", self.name)
        if self.kind is SchemaKind.STRING:
            if self.definition != "":
                raise InvalidSettings("Schema.definition", "must be left out: text has no definition")
            return
        try:
            known = isinstance(json.loads(self.definition), dict)
        except (ValueError, TypeError):
            known = False
        if not known:
            raise InvalidSettings("Schema.definition", f"must be JSON text of an object for {self.kind.value}")
