"""
Pydantic models, and all else that a pydantic `TypeAdapter` understands, as JSON, validated on both ways.

Needs `pydantic`: `pip install "safepulsar[pydantic]"`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

from safepulsar.errors import InvalidMessage, InvalidSettings
from safepulsar.serialization.json_text import place_of, to_json, unfit_part

try:
    from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
    from pydantic_core import PydanticSerializationError
except ImportError as error:
    raise ImportError('models need pydantic: pip install "safepulsar[pydantic]"') from error

if TYPE_CHECKING:
    from safepulsar.settings import Schema

T = TypeVar("T")


class ModelSerializer(Generic[T]):
    """
    Values of one type as JSON, by the names of its aliases.

    What is sent is what the receiver's twin takes: the payload is read back once, because pydantic does not check what
    is changed in a model after it was made.

    Args:
        kind: the type, such as a `pydantic.BaseModel`.
        schema: to be registered with the broker, if any.

    Raises:
        InvalidSettings: pydantic doesn't understand the type.
    """

    content_type: Final = "application/json"

    def __init__(self, kind: type[T], *, schema: Schema | None = None) -> None:
        self.schema = schema
        try:
            self._adapter: TypeAdapter[T] = TypeAdapter(kind)
        except (PydanticSchemaGenerationError, PydanticUserError, RecursionError):
            problem = "must be a type that pydantic understands, such as a BaseModel or a dataclass"
            raise InvalidSettings("kind", problem) from None

    def serialize(self, value: object) -> bytes:
        """
        Return the JSON of `value`: the model, or a dict that it can be made of.

        Raises:
            InvalidMessage: it is not of the type; the field names the place (`value.items[0].price`).
        """
        try:
            made = self._adapter.validate_python(value)
            payload = self._adapter.dump_json(made, by_alias=True, round_trip=True, warnings=False)
            decoded = self._adapter.validate_json(payload)
        except ValidationError as error:
            field, problem = _told(error, "value")
        except (PydanticSerializationError, ValueError, RecursionError):
            field, problem = unfit_part(value)
        else:
            if b"null" in payload and decoded != made:
                to_json(made)  # pydantic writes null for NaN and infinity: this refuses them
            return payload
        raise InvalidMessage(field, problem)  # outside, because what was raised quotes the data

    def deserialize(self, payload: bytes) -> T:
        """
        Return the value.

        Raises:
            InvalidMessage: no JSON, or not of the type; the field names the place.
        """
        try:
            return self._adapter.validate_json(payload)
        except ValidationError as error:
            field, problem = _told(error, "payload")
        raise InvalidMessage(field, problem)


def _told(error: ValidationError, what: str) -> tuple[str, str]:
    """
    The place and pydantic's code of the first error; its text can quote what the application's validators say.
    """
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return what + "".join(map(place_of, first["loc"])), f"fails validation: {first['type']}"
