"""
What all settings share: they refuse unknown names and wrong values with a typed error, and hide secrets when shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from safepulsar.errors import InvalidSettings, shown

if TYPE_CHECKING:
    from collections.abc import Iterable
    from dataclasses import Field

    from typing_extensions import Self

YEAR_SECONDS = 365 * 86_400  # the longest time anywhere: far below what the system's timers take
_HIDDEN = "***"
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Settings:
    """
    The base of all settings. Made by keywords, or by `from_mapping` from what a configuration file holds.

    Its repr shows what differs from the defaults, and never what is marked as secret.
    """

    __slots__ = ()
    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __new__(cls, *values: object, **given: object) -> Self:
        """
        Refuse a misspelt name, before the dataclass does it with a TypeError that names no remedy.

        Raises:
            InvalidSettings: with the closest name that there is.
        """
        if values:
            first = fields(cls)[0].name
            raise InvalidSettings(cls.__name__, f"takes its settings by name, as in {cls.__name__}({first}=...)")
        _check_names(cls, given)
        return super().__new__(cls)

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> Self:
        """
        Make settings of what a TOML or JSON file holds.

        Enums are given by their names, tuples as lists, and the settings of a part as a table of their own. Numbers must be numbers: a text such as "10" is refused, not converted.

        Raises:
            InvalidSettings: an unknown or a missing name, or a wrong value.
        """
        if not isinstance(values, Mapping):
            raise InvalidSettings(cls.__name__, f"must be a mapping of names to values, not {shown(values)}")
        _check_names(cls, values)
        known = {item.name: item for item in fields(cls)}
        for item in known.values():
            if item.name not in values and item.default is MISSING and item.default_factory is MISSING:
                raise InvalidSettings(f"{cls.__name__}.{item.name}", "is missing, and there is no default for it")
        return cls(**{name: _read(known[name], value) for name, value in values.items()})

    def __repr__(self) -> str:
        parts = []
        for item in fields(self):
            value = getattr(self, item.name)
            if value != (item.default if item.default_factory is MISSING else item.default_factory()):
                parts.append(f"{item.name}={_HIDDEN if item.metadata.get('secret') else repr(value)}")
        return f"{type(self).__name__}({', '.join(parts)})"


def check_number(owner: str, name: str, value: object, low: float, high: float, *, whole: bool = False) -> None:
    """
    Refuse what is not a number in the range; a bool is none, and neither are infinity and NaN.
    """
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        what = "a whole number" if whole else "a number"
        raise InvalidSettings(f"{owner}.{name}", f"must be {what} from {low} to {high}, not {shown(value)}")


def check_flag(owner: str, name: str, value: object) -> None:
    """
    Refuse what is not a bool: the text "false" would count as true.
    """
    if not isinstance(value, bool):
        raise InvalidSettings(f"{owner}.{name}", f"must be True or False, not {shown(value)}")


def check_enum(owner: str, name: str, value: object, kind: type[Enum]) -> None:
    """
    Refuse what is not a member of the enum.
    """
    if not isinstance(value, kind):
        members = ", ".join(f"{kind.__name__}.{member.name}" for member in kind)
        raise InvalidSettings(f"{owner}.{name}", f"must be one of {members}, not {shown(value)}")


def check_text(owner: str, name: str, value: object, *, optional: bool = True) -> None:
    """
    Refuse what is not text, is empty, or holds what the client library could not take.
    """
    if value is None and optional:
        return
    if not isinstance(value, str):
        problem = f"must be text, not {shown(value)}"
    elif not value:
        problem = "must not be empty; leave it out for the default" if optional else "must not be empty"
    elif (bad := _UNPRINTABLE.search(value)) is not None:
        # The character alone tells nothing of a secret; often it is the line break at the end of a file.
        problem = (
            f"must not hold U+{ord(bad[0]):04X}, a control character or lone surrogate; it stands at {bad.start()}"
        )
    else:
        return
    raise InvalidSettings(f"{owner}.{name}", problem)


def _check_names(owner: type[Settings], given: Iterable[object]) -> None:
    names = [item.name for item in fields(owner)]
    for name in given:
        if name in names:
            continue
        import difflib  # noqa: PLC0415 - only a mistake needs it, and it takes its time to import

        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5) if isinstance(name, str) else []
        remedy = f"did you mean {close[0]!r}?" if close else f"the settings are {', '.join(names)}"
        text = str(name)[:80]
        label = text if text.isascii() and text.isidentifier() else ascii(text)
        raise InvalidSettings(f"{owner.__name__}.{label}", f"is not a setting; {remedy}")


def _read(item: Field[Any], value: object) -> object:
    """
    The value of one field, from the kinds of values that a configuration file has.
    """
    if isinstance(value, list):
        return tuple(_read(item, each) for each in value)
    if isinstance(value, str) and isinstance(item.default, Enum):
        return type(item.default).__members__.get(value, value)
    if isinstance(value, Mapping):
        each, part = item.metadata.get("each"), item.metadata.get("part")
        if each is not None:
            return {
                name: each.from_mapping(part) if isinstance(part, Mapping) else part for name, part in value.items()
            }
        if isinstance(item.default, Settings):
            part = type(item.default)
        if part is not None:
            return part.from_mapping(value)
        if item.default == ():
            return tuple(value.items())
    return value
