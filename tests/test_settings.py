"""
Settings: wrong names and values are refused with a remedy when they are made, and secrets are never shown.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import logging
import pickle
import re
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from safepulsar import settings as module
from safepulsar.broker.client_registry import ClientRegistry
from safepulsar.broker.outcomes import Phase
from safepulsar.errors import InvalidSettings, SendFailed
from safepulsar.sender import RetryingSender
from safepulsar.settings import (
    AccessMode,
    ClientSettings,
    Compression,
    LogLevel,
    PoolSettings,
    ProducerSettings,
    RetrySettings,
    Schema,
    SenderSettings,
    Settings,
    TopicSettings,
    WhenFull,
)
from safepulsar.testing import FakeBroker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_URL = "pulsar://localhost:6650"
_TLS_URL = "pulsar+ssl://pulsar.example:6651"
_TOPIC = "persistent://public/default/t"
_CANARY = "cAnArY"

# Every class with what it needs at least.
_NEEDED: dict[type[Settings], dict[str, object]] = {
    ClientSettings: {"url": _URL},
    PoolSettings: {},
    ProducerSettings: {"topic": _TOPIC},
    RetrySettings: {},
    Schema: {"definition": "{}"},
    SenderSettings: {},
    TopicSettings: {},
}
_classes = pytest.mark.parametrize("kind", _NEEDED, ids=lambda kind: kind.__name__)


def _every_field() -> list[tuple[type[Settings], str]]:
    return [(kind, item.name) for kind in _NEEDED for item in dataclasses.fields(kind)]


_fields = pytest.mark.parametrize(("kind", "name"), _every_field(), ids=lambda value: getattr(value, "__name__", value))


def _refused(kind: type[Settings], /, **values: object) -> InvalidSettings:
    with pytest.raises(InvalidSettings) as caught:
        kind(**{**_NEEDED[kind], **values})
    return caught.value


# -- all settings --------------------------------------------------------------------------------------------


def test_every_class_of_settings_is_tested() -> None:
    """
    The tests below are run for every class that the module has.
    """
    classes = {value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, Settings)}
    assert classes == {*_NEEDED, Settings}


@_classes
def test_every_default_is_accepted(kind: type[Settings]) -> None:
    """
    Settings with nothing but what is needed are valid, equal to their like, and show just what was given.
    """
    made = kind(**_NEEDED[kind])
    assert made == kind(**_NEEDED[kind])
    assert repr(made) == f"{kind.__name__}({', '.join(f'{name}={value!r}' for name, value in _NEEDED[kind].items())})"


@_classes
def test_settings_are_keys(kind: type[Settings]) -> None:
    """
    Equal settings hash alike, so that they can be what registry and pool look up.
    """
    assert len({kind(**_NEEDED[kind]), kind(**_NEEDED[kind])}) == 1


@_classes
def test_settings_are_frozen_copied_and_pickled(kind: type[Settings]) -> None:
    """
    Settings can't be changed, but travel to other processes and can be varied with dataclasses.replace.
    """
    made = kind(**_NEEDED[kind])
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, dataclasses.fields(kind)[0].name, "other")
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301 - our own bytes
    assert copy.deepcopy(made) == copy.copy(made) == made
    assert dataclasses.replace(made) == made


@_classes
def test_settings_have_no_room_for_misspelt_attributes(kind: type[Settings]) -> None:
    """
    Every setting has a slot, and nothing else can be set.
    """
    assert not hasattr(kind(**_NEEDED[kind]), "__dict__")


@_classes
def test_every_setting_is_explained(kind: type[Settings]) -> None:
    """
    The docstring tells of every setting, in their order.
    """
    told = re.findall(r"^    (\w+): ", inspect.getdoc(kind) or "", re.MULTILINE)
    assert told == [item.name for item in dataclasses.fields(kind)]


@_fields
def test_every_setting_refuses_a_wrong_type_by_name(kind: type[Settings], name: str) -> None:
    """
    An object that fits nothing is a typed error that names class and setting, for every setting there is.
    """
    error = _refused(kind, **{name: object()})
    assert error.field == f"{kind.__name__}.{name}"


@_fields
def test_no_setting_quotes_what_it_refuses(kind: type[Settings], name: str) -> None:
    """
    A secret that was put in the wrong place, or is malformed, is in no error.
    """
    for value in (f"{_CANARY}\n", [_CANARY], {_CANARY: _CANARY}, _CANARY.encode(), (_CANARY, _CANARY, _CANARY)):
        error = _refused(kind, **{name: value})
        if not (name == "topics" and isinstance(value, dict)):  # whose names are shown, as names of topics
            assert _CANARY not in "".join(traceback.format_exception(error))


@_classes
def test_a_misspelt_setting_is_refused_with_the_closest_name(kind: type[Settings]) -> None:
    """
    An unknown name is a typed error, in the constructor, in from_mapping and in dataclasses.replace.
    """
    right = dataclasses.fields(kind)[-1].name
    wrong = right[:-1]
    ways: tuple[Callable[[], object], ...] = (
        lambda: kind(**{**_NEEDED[kind], wrong: 1}),
        lambda: kind.from_mapping({**_NEEDED[kind], wrong: 1}),
        lambda: dataclasses.replace(kind(**_NEEDED[kind]), **{wrong: 1}),
    )
    for make in ways:
        with pytest.raises(InvalidSettings) as caught:
            make()
        assert str(caught.value) == f"{kind.__name__}.{wrong}: is not a setting; did you mean {right!r}?"


@pytest.mark.parametrize("name", ["zzz", "z" * 1000, "\ud800", "a\nb", "", 7])
def test_an_unheard_of_setting_is_refused_with_the_names_there_are(name: Any) -> None:  # noqa: ANN401 - anything
    """
    Where no name is close, the error lists them all, and stays printable.
    """
    with pytest.raises(InvalidSettings) as caught:
        RetrySettings.from_mapping({name: 1})
    assert "the settings are max_retries, first_delay_seconds, max_delay_seconds, " in str(caught.value)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_settings_are_given_by_name() -> None:
    """
    A value without a name is a typed error that shows how to name it.
    """
    with pytest.raises(InvalidSettings, match=re.escape("by name, as in ClientSettings(url=...)")) as caught:
        ClientSettings(f"pulsar://user:{_CANARY}@host")  # type: ignore[call-arg]  # this is the test
    assert _CANARY not in str(caught.value)


# -- numbers, flags, choices -----------------------------------------------------------------------------------

_RANGES: dict[type[Settings], dict[str, tuple[float, float]]] = {
    ClientSettings: {
        "operation_timeout_seconds": (1, 3600),
        "connection_timeout_seconds": (0.1, 3600),
        "io_threads": (1, 64),
    },
    PoolSettings: {
        "max_producers": (1, 1_000_000),
        "idle_seconds": (0, 31_536_000),
        "max_concurrent_creations": (1, 10_000),
        "creation_backoff_max_seconds": (0.1, 3600),
        "leak_seconds": (0, 31_536_000),
    },
    ProducerSettings: {"initial_sequence_id": (1, 2**63 - 1), "batch_max_bytes": (1, 5_242_880)},
    RetrySettings: {
        "max_retries": (0, 1_000_000),
        "max_delay_seconds": (0.1, 86_400),
        "jitter_seconds": (0, 3600),
    },
    SenderSettings: {
        "deadline_seconds": (0.001, 31_536_000),
        "max_in_flight_messages": (1, 100_000_000),
        "max_in_flight_bytes": (1, 1024**5),
        "max_message_bytes": (1, 1024**3),
        "messages_per_second": (0.001, 1e12),
        "bytes_per_second": (0.001, 1e12),
        "close_seconds": (0, 86_400),
    },
    TopicSettings: {"batch_max_messages": (1, 100_000), "batch_max_bytes": (1, 5_242_880)},
}


@pytest.mark.parametrize(
    ("kind", "name", "low", "high"),
    [(kind, name, *ends) for kind, ranges in _RANGES.items() for name, ends in ranges.items()],
)
def test_a_number_has_a_range(kind: type[Settings], name: str, low: float, high: float) -> None:
    """
    Both ends of the range are accepted, and beyond them is a typed error that names both.
    """
    for value in (low, high):
        assert getattr(kind(**{**_NEEDED[kind], name: value}), name) == value
    step = 1 if isinstance(high, int) else high
    outside: list[object] = [low - step, high + step, float("inf"), float("nan"), True, str(low)]
    for wrong in outside:
        assert f"from {low} to {high}, not " in str(_refused(kind, **{name: wrong}))


def test_whole_numbers_are_whole() -> None:
    """
    A count takes no fraction, not even a zero one.
    """
    assert str(_refused(RetrySettings, max_retries=3.0)) == (
        "RetrySettings.max_retries: must be a whole number from 0 to 1000000, not 3.0"
    )


def test_the_longest_delay_is_not_below_the_first() -> None:
    """
    Delays that could only shrink are refused.
    """
    assert _refused(RetrySettings, first_delay_seconds=6.0).field == "RetrySettings.max_delay_seconds"
    assert _refused(PoolSettings, creation_backoff_seconds=6.0).field == "PoolSettings.creation_backoff_max_seconds"


@pytest.mark.parametrize("value", ["true", "false", "no", 0, 1, None])
def test_flags_are_true_or_false(value: object) -> None:
    """
    The text "false", which Python takes for true, switches nothing on.
    """
    for kind in _NEEDED:
        for item in dataclasses.fields(kind):
            if isinstance(item.default, bool):
                assert "must be True or False" in str(_refused(kind, **{item.name: value}))


def test_choices_are_members() -> None:
    """
    A choice by its mere text is refused with all there are.
    """
    assert str(_refused(ClientSettings, log_level="WARN")) == (
        "ClientSettings.log_level: must be one of LogLevel.ERROR, LogLevel.WARN, LogLevel.INFO, LogLevel.DEBUG, not str"
    )


# -- the connection ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "pulsar://localhost",
        "pulsar://localhost:6650",
        "pulsar://localhost:6650/",
        "pulsar+ssl://pulsar.example:6651",
        "pulsar://a:6650,b:6650,10.0.0.1:65535",
        "pulsar://[::1]:6650",
        "pulsar://broker_1.example-2:1",
    ],
)
def test_a_url_names_hosts(url: str) -> None:
    """
    Pulsar's own forms of a URL are taken.
    """
    assert ClientSettings(url=url).url == url


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (None, "must be text such as 'pulsar://localhost:6650', not NoneType"),
        (b"pulsar://localhost", "not bytes"),
        ("", "must begin with 'pulsar://', or with 'pulsar+ssl://' for TLS"),
        (f"http://{_CANARY}", "must begin with"),
        (f"{_CANARY}://localhost", "must begin with"),
        (_CANARY, "must begin with"),
        ("PULSAR://localhost", "must begin with"),
        (f"pulsar://user:{_CANARY}@localhost:6650", "must not carry a user or a password; use `token`"),
        (f"pulsar://{_CANARY}@localhost", "must not carry a user or a password"),
        (f"pulsar://localhost:{_CANARY}", "must name hosts as host:port"),
        (f"pulsar://localhost/{_CANARY}", "must name hosts as host:port"),
        (f"pulsar://localhost?token={_CANARY}", "must name hosts as host:port"),
        ("pulsar://", "must name hosts as host:port"),
        ("pulsar://a,,b", "must name hosts as host:port"),
        ("pulsar://a b", "must name hosts as host:port"),
        ("pulsar://a\n", "must name hosts as host:port"),
        ("pulsar://\ud800", "must name hosts as host:port"),
        ("pulsar://a:0", "port 0 is not between 1 and 65535"),
        ("pulsar://a:65536", "port 65536 is not between 1 and 65535"),
    ],
)
def test_a_bad_url_is_refused_and_not_quoted(url: object, problem: str) -> None:
    """
    Bad schemes, credentials, paths and ports are typed errors, and a password anywhere in the URL is not in them.
    """
    error = _refused(ClientSettings, url=url)
    assert str(error).startswith("ClientSettings.url: ")
    assert problem in str(error)
    assert _CANARY not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "url",
    [
        "pulsar://localhost",
        "pulsar://127.0.0.1:6650",
        "pulsar://127.8.9.10:1,localhost:2",
        "pulsar://[::1]:6650",
        _TLS_URL,
    ],
)
def test_a_token_goes_to_this_machine_or_over_tls(url: str) -> None:
    """
    A token is taken where nobody can read it on its way.
    """
    assert ClientSettings(url=url, token=_CANARY).token == _CANARY


@pytest.mark.parametrize(
    "url",
    [
        "pulsar://pulsar.example:6650",
        "pulsar://127.0.0.1.example:6650",
        "pulsar://127.example:6650",
        "pulsar://localhost.example",
        "pulsar://localhost,pulsar.example",
        "pulsar://10.0.0.1",
        "pulsar://[::2]",
    ],
)
def test_a_token_in_clear_text_must_be_allowed(url: str) -> None:
    """
    A token for another machine without TLS is refused, also where the name only looks like this machine's.
    """
    error = _refused(ClientSettings, url=url, token=_CANARY)
    assert "travels in clear text; use pulsar+ssl://, or say allow_token_without_tls=True" in str(error)
    assert _CANARY not in "".join(traceback.format_exception(error))
    assert ClientSettings(url=url, token=_CANARY, allow_token_without_tls=True).token == _CANARY


def test_a_token_may_be_a_function() -> None:
    """
    A callable token is kept and not called when settings are made; anything but text and callables is refused.
    """

    def never() -> str:
        raise AssertionError("called")

    assert ClientSettings(url=_URL, token=never).token is never
    assert "must be text, not bytes" in str(_refused(ClientSettings, token=b"canary"))
    assert "must not hold U+000A" in str(_refused(ClientSettings, token=f"{_CANARY}\n"))


def test_a_client_certificate_comes_with_its_key_and_over_tls() -> None:
    """
    Half a certificate, or one that would never be shown to the broker, is refused.
    """
    files = {"tls_certificate_file": "c.pem", "tls_private_key_file": "k.pem"}
    assert ClientSettings.from_mapping({"url": _TLS_URL, **files}).tls
    for name, file in files.items():
        assert "together or not at all" in str(_refused(ClientSettings, url=_TLS_URL, **{name: file}))
    assert "over pulsar+ssl:// only" in str(_refused(ClientSettings, **files))


def test_the_hostname_is_validated_by_default() -> None:
    """
    Other than the official client's, the defaults trust no certificate that is for another name.
    """
    made = ClientSettings(url=_TLS_URL)
    assert made.tls
    assert made.tls_validate_hostname
    assert not made.tls_allow_insecure_connection
    assert not ClientSettings(url=_URL).tls


# -- producers and topics ------------------------------------------------------------------------------------------


def test_chunking_needs_a_producer_without_batches() -> None:
    """
    A producer that would batch and so never chunk is refused; a topic's settings see to it themselves.
    """
    assert "needs batch_max_messages=1" in str(_refused(ProducerSettings, chunking=True))
    assert TopicSettings(chunking=True).producer(_TOPIC, keyed=False).batch_max_messages == 1


def test_encryption_needs_name_and_files() -> None:
    """
    The key's name and a pair of files go together.
    """
    files = ("public.pem", "private.pem")
    kinds: tuple[type[Settings], ...] = (ProducerSettings, TopicSettings)
    for kind in kinds:
        kind(**_NEEDED[kind], encryption_key="key", crypto_key_files=files)
        assert "together or not at all" in str(_refused(kind, encryption_key="key"))
        assert "together or not at all" in str(_refused(kind, crypto_key_files=files))
        bad: object
        for bad in (("one",), ("a", "b", "c"), ("a", 7), ("a", ""), ["a", "b"]):
            assert _refused(kind, encryption_key="key", crypto_key_files=bad).field.endswith(".crypto_key_files")


@pytest.mark.parametrize("properties", [{"a": "b"}, [("a", "b")], ("ab",), (("a", 7),), (("a",),), (["a", "b"],), None])
def test_properties_of_a_producer_are_pairs_of_text(properties: object) -> None:
    """
    What could not be the key of a pool is refused.
    """
    for kind in (ProducerSettings, TopicSettings):
        assert _refused(kind, properties=properties).field == f"{kind.__name__}.properties"


@pytest.mark.parametrize(
    ("changes", "plain", "keyed"),
    [
        ({}, 500, 1),
        ({"mix_keys": True}, 500, 500),
        ({"producer_name": "p"}, 1, 1),
        ({"producer_name": "p", "mix_keys": True}, 500, 500),
        ({"chunking": True, "mix_keys": True}, 1, 1),
        ({"batch_max_messages": 1}, 1, 1),
        ({"batch_max_messages": 7, "mix_keys": True}, 7, 7),
    ],
)
def test_messages_with_keys_are_batched_only_if_keys_may_mix(
    changes: Mapping[str, object], plain: int, keyed: int
) -> None:
    """
    By default keyed messages go one by one; one producer serves both kinds if it has a name or batches don't matter.
    """
    made = TopicSettings.from_mapping(changes)
    producers = [made.producer(_TOPIC, keyed=keyed) for keyed in (False, True)]
    assert [producer.batch_max_messages for producer in producers] == [plain, keyed]
    assert (producers[0] == producers[1]) is (plain == keyed)


def test_a_topic_hands_all_its_settings_to_its_producers() -> None:
    """
    Every setting that both classes have is the same in the producer.
    """
    made = TopicSettings(
        mix_keys=True,
        batch_max_messages=7,
        batch_max_bytes=8,
        compression=Compression.ZSTD,
        producer_name="p",
        access_mode=AccessMode.EXCLUSIVE,
        encryption_key="key",
        crypto_key_files=("a", "b"),
        properties=(("a", "b"),),
        schema=Schema(definition="{}"),
    )
    producer = made.producer(_TOPIC, keyed=True)
    assert producer.topic == _TOPIC
    for item in dataclasses.fields(TopicSettings):
        if item.name not in {"mix_keys", "lane_policy", "durability"}:
            assert getattr(producer, item.name) == getattr(made, item.name)


# -- the sender --------------------------------------------------------------------------------------------------


def test_the_settings_of_topics_are_copied() -> None:
    """
    Changing the mapping afterwards changes nothing.
    """
    topics = {"orders": TopicSettings()}
    made = SenderSettings(topics=topics)
    topics["refunds"] = TopicSettings()
    assert made.topics == {"orders": TopicSettings()}


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("topics", [TopicSettings()], "must be a mapping of topic names to TopicSettings, not list"),
        ("topics", {"orders": {"mix_keys": True}}, "SenderSettings.topics['orders']: must be TopicSettings, not dict"),
        ("topics", {7: TopicSettings()}, "SenderSettings.topics: must be text, not 7"),
        ("topics", {"": TopicSettings()}, "SenderSettings.topics: must not be empty"),
        ("retry", PoolSettings(), "SenderSettings.retry: must be RetrySettings, not PoolSettings"),
        ("pool", None, "SenderSettings.pool: must be PoolSettings, not NoneType"),
        ("topic_defaults", {}, "SenderSettings.topic_defaults: must be TopicSettings, not dict"),
        ("allowed_namespaces", "shop/*", "must be a tuple of patterns such as ('shop/*',), not str"),
        ("allowed_namespaces", ["shop/*"], "must be a tuple of patterns such as ('shop/*',), not list"),
        (
            "allowed_namespaces",
            ("a/*", "shop"),
            "SenderSettings.allowed_namespaces[1]: must be a pattern of tenant/name",
        ),
        ("allowed_namespaces", ("a/b/c",), "SenderSettings.allowed_namespaces[0]: must be a pattern of tenant/name"),
        ("allowed_namespaces", ("shop/[a-z]",), "must be a pattern of tenant/namespace, such as 'shop/*'"),
        ("allowed_namespaces", (7,), "must be a pattern of tenant/namespace, such as 'shop/*'"),
    ],
)
def test_parts_of_a_sender_are_what_they_should_be(name: str, value: object, problem: str) -> None:
    """
    Wrong parts, topics and patterns are typed errors that name their place.
    """
    error = _refused(SenderSettings, **{name: value})
    assert error.field.startswith(f"SenderSettings.{name}")
    assert problem in str(error)


# -- from a configuration file ---------------------------------------------------------------------------------------


def test_settings_are_read_from_what_a_configuration_file_holds() -> None:
    """
    Names of choices, lists and tables become what the settings need, at every depth.
    """
    assert SenderSettings.from_mapping(
        {
            "deadline_seconds": 5,
            "when_full": "RAISE",
            "allowed_namespaces": ["shop/*"],
            "retry": {"max_retries": 1, "resend_maybe_stored": True},
            "pool": {"idle_seconds": 1.5},
            "topics": {"orders": {"compression": "LZ4", "properties": {"team": "shop"}}},
            "topic_defaults": {"encryption_key": "k", "crypto_key_files": ["a", "b"], "properties": [["a", "b"]]},
        }
    ) == SenderSettings(
        deadline_seconds=5,
        when_full=WhenFull.RAISE,
        allowed_namespaces=("shop/*",),
        retry=RetrySettings(max_retries=1, resend_maybe_stored=True),
        pool=PoolSettings(idle_seconds=1.5),
        topics={"orders": TopicSettings(compression=Compression.LZ4, properties=(("team", "shop"),))},
        topic_defaults=TopicSettings(encryption_key="k", crypto_key_files=("a", "b"), properties=(("a", "b"),)),
    )
    assert ClientSettings.from_mapping({"url": _URL, "log_level": "INFO"}).log_level is LogLevel.INFO


@pytest.mark.parametrize(
    ("kind", "values", "problem"),
    [
        (ClientSettings, {}, "ClientSettings.url: is missing, and there is no default for it"),
        (ClientSettings, [("url", _URL)], "ClientSettings: must be a mapping of names to values, not list"),
        (ClientSettings, {"url": _URL, "log_level": "warn"}, "ClientSettings.log_level: must be one of LogLevel.ERROR"),
        (SenderSettings, {"deadline_seconds": "10"}, "must be a number from 0.001 to 31536000, not str"),
        (SenderSettings, {"retry": {"max_retry": 1}}, "RetrySettings.max_retry: is not a setting; did you mean"),
        (SenderSettings, {"retry": 3}, "SenderSettings.retry: must be RetrySettings, not 3"),
        (
            SenderSettings,
            {"topics": {"t": {"mix": True}}},
            "TopicSettings.mix: is not a setting; did you mean 'mix_keys'?",
        ),
        (SenderSettings, {"topics": {"t": 1}}, "SenderSettings.topics['t']: must be TopicSettings, not 1"),
        (SenderSettings, {"topics": [1]}, "SenderSettings.topics: must be a mapping"),
    ],
)
def test_a_bad_configuration_is_refused(kind: type[Settings], values: Any, problem: str) -> None:  # noqa: ANN401 - as read
    """
    Missing and unknown names and wrong values are typed errors, at every depth.
    """
    with pytest.raises(InvalidSettings) as caught:
        kind.from_mapping(values)
    assert problem in str(caught.value)


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_anything = st.recursive(
    _scalars, lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=5), each, max_size=3)
)


@example_settings(deadline=None)
@given(data=st.data(), kind=st.sampled_from(list(_NEEDED)))
def test_whatever_a_configuration_holds_is_read_or_refused(data: st.DataObject, kind: type[Settings]) -> None:
    """
    Any values at all give settings or a typed error, and settings survive a second reading unchanged.
    """
    names = [item.name for item in dataclasses.fields(kind)]
    values = {**_NEEDED[kind], **data.draw(st.dictionaries(st.sampled_from(names), _anything, max_size=3))}
    made = _made_or_refusal(kind, values)
    if isinstance(made, InvalidSettings):
        assert made.field.split(".")[0].endswith(("Settings", "Schema"))
    else:
        again = {item.name: getattr(made, item.name) for item in dataclasses.fields(kind)}
        assert kind.from_mapping(again) == made


def _made_or_refusal(kind: type[Settings], values: Mapping[str, object]) -> Settings | InvalidSettings:
    try:
        return kind.from_mapping(values)
    except InvalidSettings as error:
        return error


# -- secrets -------------------------------------------------------------------------------------------------------

_secret_texts: dict[str, Callable[[object], str]] = {
    "repr": repr,
    "str": str,
    "format": lambda value: f"{value}",
    "log": lambda value: logging.LogRecord("n", logging.INFO, "f", 1, "%s %r", (value, value), None).getMessage(),
    "in a list": lambda value: repr([value]),
    "in an error": lambda value: "".join(traceback.format_exception(ValueError(value))),
}


@pytest.mark.parametrize("show", _secret_texts.values(), ids=_secret_texts)
@pytest.mark.parametrize(
    "made",
    [
        ClientSettings(url=_URL, token=_CANARY),
        ProducerSettings(topic=_TOPIC, properties=((_CANARY, _CANARY),)),
        TopicSettings(properties=((_CANARY, _CANARY),)),
        SenderSettings(
            topics={"t": TopicSettings(properties=((_CANARY, _CANARY),))},
            topic_defaults=TopicSettings(properties=((_CANARY, _CANARY),)),
        ),
    ],
    ids=lambda made: type(made).__name__,
)
def test_a_secret_is_shown_nowhere(made: Settings, show: Callable[[object], str]) -> None:
    """
    However settings are turned into text, a token and the properties' names and values are masked.
    """
    assert _CANARY not in show(made)
    assert "***" in show(made)


def test_a_secret_is_shown_nowhere_on_the_way_of_a_message(caplog: pytest.LogCaptureFixture) -> None:
    """
    Token, payload, keys and property values are in no repr, error or log record of a sender, also when sending fails.
    """
    caplog.set_level(logging.DEBUG, logger="safepulsar")
    broker = FakeBroker()
    registry = ClientRegistry(broker.connect)
    client = ClientSettings(url="pulsar+ssl://pulsar.example", token=_CANARY)
    settings = SenderSettings(retry=RetrySettings(max_retries=1, first_delay_seconds=0.0, jitter_seconds=0.0))
    with RetryingSender(client, settings=settings, registry=registry) as sender:
        delivered = sender.submit("t", _CANARY, partition_key=_CANARY, properties={"p": _CANARY})
        delivered.result()
        broker.fail_next(1, "AuthorizationError", phase=Phase.LATER)
        failed = sender.submit("t", {"a": _CANARY}, ordering_key=_CANARY, properties={"p": _CANARY})
        error = failed.exception()
        assert isinstance(error, SendFailed)
        kept = list(sender.failed_messages.find())
        seen = [client, settings, sender, registry, delivered, failed, error, error.message, error.attempts, kept]
        seen += [delivered.result(), sender.stats(), sender.failed_messages, broker, sender.close()]
    texts = [text for thing in seen for text in (repr(thing), str(thing))]
    texts += traceback.format_exception(error)
    texts += [repr(vars(record)) for record in caplog.records]
    assert len(kept) == 1
    assert kept[0].message.payload == f'{{"a":"{_CANARY}"}}'.encode()
    assert [text for text in texts if _CANARY in text] == []
