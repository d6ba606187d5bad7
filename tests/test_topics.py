"""
Topic names: what is accepted is a full name that the broker takes, and everything else is refused with a remedy.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from safepulsar.errors import InvalidTopic
from safepulsar.topics import TopicNames

_FULL = re.compile(r"(persistent|non-persistent)://[-=:.\w]+/[-=:.\w]+/[-=:.\w]+", re.ASCII)
_part = st.from_regex(r"[-=:.A-Za-z0-9_]{1,200}", fullmatch=True).filter(lambda part: part.strip("."))
_name = _part.filter(lambda part: not re.search(r"-partition-[0-9]+\Z", part))
_domain = st.sampled_from(["persistent", "non-persistent"])


@example_settings(deadline=None)
@given(topic=st.text(alphabet="ab./:-=_ \n\t€%", max_size=40) | st.text(max_size=40))
def test_whatever_is_accepted_is_a_full_name_and_stays_so(topic: str) -> None:
    """
    Of any text at all, either a full name of Pulsar's form comes out, which stands for itself, or a typed error.
    """
    full = _full_or_refusal(topic)
    if isinstance(full, InvalidTopic):
        assert full.field == "topic"
        assert str(full).isascii()
        assert str(full).isprintable()
        return
    assert _FULL.fullmatch(full)
    assert full.endswith(topic)
    assert ".." not in full.split("/")
    assert TopicNames().full(full) == full


def _full_or_refusal(topic: str) -> str | InvalidTopic:
    try:
        return TopicNames().full(topic)
    except InvalidTopic as error:
        return error


@example_settings(deadline=None)
@given(domain=_domain, tenant=_part, namespace=_part, name=_name)
def test_every_way_to_write_a_topic_means_the_same(domain: str, tenant: str, namespace: str, name: str) -> None:
    """
    A full name stands for itself, a path is a persistent topic, a bare name is in public/default.
    """
    names = TopicNames()
    full = f"{domain}://{tenant}/{namespace}/{name}"
    assert names.full(full) == full
    assert names.full(f"{tenant}/{namespace}/{name}") == f"persistent://{tenant}/{namespace}/{name}"
    assert names.full(name) == f"persistent://public/default/{name}"


@pytest.mark.parametrize(
    ("topic", "problem"),
    [
        ("", "not empty"),
        (None, "not NoneType"),
        (7, "not int"),
        (b"orders", "not bytes"),
        (["orders"], "not list"),
        ("kafka://public/default/orders", "must begin with persistent:// or non-persistent://"),
        ("persistent://orders", "must be a name, tenant/namespace/name, or persistent://tenant/namespace/name"),
        ("public/orders", "must be a name, tenant/namespace/name"),
        ("public/cluster/default/orders", "must be a name, tenant/namespace/name"),
        ("persistent://public/default/", "each part takes"),
        ("/public/orders", "each part takes"),
        ("public/../orders", "each part takes"),
        (".", "each part takes"),
        ("..", "each part takes"),
        ("orders ", "each part takes"),
        ("or\nders", "each part takes"),
        ("orders\n", "each part takes"),
        ("or\x00ders", "each part takes"),
        ("ördérs", "each part takes"),
        ("\ud800", "each part takes"),
        ("a" * 201, "each part takes 1 to 200"),
        ("orders-partition-0", "names one partition; name the topic"),
        ("persistent://public/default/orders-partition-12", "names one partition"),
    ],
)
def test_a_bad_topic_is_refused_with_the_remedy(topic: str, problem: str) -> None:
    """
    Wrong types, foreign schemes, `..`, control characters, surrogates and single partitions are typed errors.
    """
    with pytest.raises(InvalidTopic, match=re.escape(problem)) as caught:
        TopicNames().full(topic)
    assert str(caught.value).startswith("topic: ")


@pytest.mark.parametrize(
    "topic", ["orders-partition-", "orders-partition-x", "a-partition-1-b", "partition-0", "x" * 200]
)
def test_names_that_only_look_special_are_taken(topic: str) -> None:
    """
    Only what the broker takes for a partition's name is refused.
    """
    assert TopicNames().full(topic) == f"persistent://public/default/{topic}"


def test_a_long_name_is_shown_in_part() -> None:
    """
    The error quotes at most the first 80 characters of a name, which can come from outside.
    """
    with pytest.raises(InvalidTopic) as caught:
        TopicNames().full("\x1b" * 100_000)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("patterns", "topic", "allowed"),
    [
        (("shop/orders",), "shop/orders/t", True),
        (("shop/orders",), "shop/orders2/t", False),
        (("shop/*",), "shop/anything/t", True),
        (("shop/*",), "persistent://shop/anything/t", True),
        (("shop/*",), "other/anything/t", False),
        (("shop/*",), "t", False),
        (("*/orders",), "shop/orders/t", True),
        (("*/orders",), "shop/refunds/t", False),
        (("shop-*/*",), "shop-7/a/t", True),
        (("shop-*/*",), "shop/a/t", False),
        (("a/b", "c/d"), "c/d/t", True),
        (("Shop/*",), "shop/orders/t", False),
        ((), "t", False),
        (None, "t", True),
    ],
)
def test_only_allowed_namespaces_pass(patterns: tuple[str, ...] | None, topic: str, *, allowed: bool) -> None:
    """
    A topic passes if tenant and namespace match one pattern part by part, in the same case.
    """
    names = TopicNames(patterns)
    if allowed:
        assert names.full(topic).endswith(topic)
    else:
        with pytest.raises(InvalidTopic, match="outside the allowed namespaces"):
            names.full(topic)


def test_a_star_does_not_reach_over_the_slash() -> None:
    """
    `*/x` allows no namespace x of a tenant whose name holds a slash, because there is no such tenant.
    """
    with pytest.raises(InvalidTopic):
        TopicNames(("*/b",)).full("a/c/b/t")


def test_names_made_of_user_input_do_not_fill_the_memory() -> None:
    """
    However many names come by, only so many are remembered, and all are still right.
    """
    names = TopicNames()
    for number in range(25_000):
        assert names.full(f"t{number}") == f"persistent://public/default/t{number}"
    assert len(names._full) <= 10_000
