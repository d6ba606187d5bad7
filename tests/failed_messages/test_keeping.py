"""
Contract of every store: what is kept comes back exactly, can be found, counted and purged.
"""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from safepulsar.errors import InvalidInput, InvalidMessage, InvalidTopic, NoSuchFailedMessage, StoreUnavailable
from safepulsar.failed_messages import FailedMessageFilter, FailedMessageState
from safepulsar.message import Certainty, MessageId
from tests.failed_messages.samples import BARE, FULL, ORDERS, START, attempt, failed

if TYPE_CHECKING:
    from safepulsar.failed_messages import FailedMessageStore
    from safepulsar.message import FailedMessage
    from tests.failed_messages.samples import ManualClock


def test_a_store_can_be_used_between_open_and_close_only(closed_store: FailedMessageStore) -> None:
    """
    Before `open` and after `close` every use says what to call; open and close may be repeated.
    """
    store = closed_store
    with pytest.raises(StoreUnavailable, match=r"call open\(\)"):
        store.keep([failed()])
    assert store.open() is store
    store.open()
    assert store.keep([failed()]) == [1]
    store.close()
    store.close()
    with pytest.raises(StoreUnavailable, match=r"call open\(\)"):
        store.get(1)
    with store:
        assert store.get(1).message.payload == b"order"


@pytest.mark.parametrize("message", [FULL, BARE], ids=["full", "bare"])
def test_a_message_comes_back_as_it_was(store: FailedMessageStore, message: FailedMessage) -> None:
    """
    Every field of a kept message comes back exactly, with the id that it was given.
    """
    (number,) = store.keep([message])
    assert store.get(number) == replace(message, id=number)
    assert list(store.find()) == [replace(message, id=number)]


def test_a_later_change_of_the_properties_does_not_reach_the_store(store: FailedMessageStore) -> None:
    """
    The store keeps a copy of what was given, not a reference to it.
    """
    properties = {"a": "1"}
    (number,) = store.keep([replace(failed(), message=replace(failed().message, properties=properties))])
    properties["a"] = "2"
    assert store.get(number).message.properties == {"a": "1"}


def test_ids_rise_in_the_order_given_and_never_come_back(store: FailedMessageStore) -> None:
    """
    Ids rise with each message; the id of a purged one is not given to another.
    """
    assert store.keep([]) == []
    assert store.keep([failed(), failed(), failed()]) == [1, 2, 3]
    store.purge(FailedMessageFilter(ids=(3,)))
    assert store.keep([replace(failed(), id=77)]) == [4]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("topic", {"message": {"topic": "a\ud800"}}),
        ("payload", {"message": {"payload": "text"}}),
        ("partition_key", {"message": {"partition_key": b"bytes"}}),
        ("properties", {"message": {"properties": {"a": 1}}}),
        ("sequence_id", {"message": {"sequence_id": 2**63}}),
        ("event_timestamp_ms", {"message": {"event_timestamp_ms": 1.5}}),
        ("deliver_at_ms", {"message": {"deliver_at_ms": True}}),
        ("certainty", {"certainty": "NOT_STORED"}),
        ("error", {"error": None}),
        ("accepted_at", {"accepted_at": math.nan}),
        ("last_failed_at", {"last_failed_at": 10**400}),
        ("first_failed_at", {"first_failed_at": "now"}),
        ("attempts", {"attempts": (replace(attempt(), elapsed_seconds=math.inf),)}),
    ],
)
def test_what_would_come_back_changed_is_refused(store: FailedMessageStore, field: str, change: dict[str, Any]) -> None:
    """
    A field that cannot be stored exactly is named in a typed error, and nothing of the call is kept.
    """
    changed: dict[str, Any] = dict(change)
    if "message" in changed:
        changed["message"] = replace(failed().message, **changed["message"])
    bad = replace(failed(), **changed)
    with pytest.raises(InvalidMessage) as refused:
        store.keep([failed(), bad])
    assert refused.value.field == field
    assert store.count() == 0


def test_a_message_that_is_not_there_is_a_typed_error(store: FailedMessageStore) -> None:
    """
    An unknown id, also one next to an existing one, is `NoSuchFailedMessage`.
    """
    store.keep([failed(), failed()])
    store.purge(FailedMessageFilter(ids=(1,)))
    for number in (0, 1, 3, -5):
        with pytest.raises(NoSuchFailedMessage, match=f"no failed message {number}"):
            store.get(number)
        with pytest.raises(NoSuchFailedMessage, match=f"no failed message {number}"):
            store.status(number)


def test_many_are_read_page_by_page(store: FailedMessageStore) -> None:
    """
    More than one page comes in order and whole, from any id on, and while rows vanish behind the reader.
    """
    store.keep([failed(str(i).encode()) for i in range(1, 1201)])
    assert [message.id for message in store.find()] == list(range(1, 1201))
    assert [message.id for message in store.find(after=1190, limit=5)] == [1191, 1192, 1193, 1194, 1195]
    assert [message.id for message in store.find(limit=0)] == []
    seen = []
    for message in store.find(limit=700):
        seen.append(message.id)
        store.confirm(message.id or 0, MessageId(1, 1))
    assert seen == list(range(1, 701))
    assert store.count() == 500


def test_filters_select_alike(store: FailedMessageStore, clock: ManualClock) -> None:
    """
    Each condition of a filter selects what it says, and conditions together select what fits all.
    """
    clock.now = START
    store.keep(
        [
            failed(key="a", error="SendTimeout", certainty=Certainty.MAYBE_STORED, first_failed_at=START - 100),
            failed(key="b", topic="persistent://shop/eu/orders", first_failed_at=START - 10),
            failed(error="ProducerFenced", first_failed_at=START),
            replace(FULL, first_failed_at=START - 50),
        ]
    )

    def ids(**conditions: Any) -> list[int | None]:  # noqa: ANN401 - of the filter
        where = FailedMessageFilter(**conditions)
        found = [message.id for message in store.find(where)]
        assert store.count(where) == store.purge(where, dry_run=True) == len(found)
        return found

    assert ids() == [1, 2, 3, 4]
    assert ids(topic="orders") == ids(topic=ORDERS) == [1, 3, 4]
    assert ids(topic="shop/eu/orders") == [2]
    assert ids(topic="order") == []
    assert ids(key="a") == [1]
    assert ids(key="Größe") == [4]  # the ordering key beats the partition key
    assert ids(key="kunde-ß") == []
    assert ids(error="ProducerFenced") == [3, 4]
    assert ids(error="Producer") == []
    assert ids(older_than_seconds=50) == [1, 4]
    assert ids(newer_than_seconds=50) == [2, 3, 4]
    assert ids(older_than_seconds=10, newer_than_seconds=50) == [2, 4]
    assert ids(certainty=Certainty.MAYBE_STORED) == [1, 4]
    assert ids(certainty=Certainty.NOT_STORED) == [2, 3]
    assert ids(ids=(4, 2, 99)) == [2, 4]
    assert ids(ids=()) == []
    assert ids(topic="orders", error="ProducerFenced", certainty=Certainty.NOT_STORED) == [3]
    store.claim("r1", FailedMessageFilter(ids=(1, 3)), limit=10, lease_seconds=30)
    assert ids(state=FailedMessageState.KEPT) == [2, 4]
    assert [message.id for message in store.find(FailedMessageFilter(state=FailedMessageState.CLAIMED))] == [1, 3]


@pytest.mark.parametrize(
    ("conditions", "field"),
    [
        ({"key": b"a"}, "key"),
        ({"error": 5}, "error"),
        ({"older_than_seconds": -1}, "older_than_seconds"),
        ({"newer_than_seconds": math.inf}, "newer_than_seconds"),
        ({"older_than_seconds": True}, "older_than_seconds"),
        ({"certainty": "MAYBE_STORED"}, "certainty"),
        ({"state": "KEPT"}, "state"),
        ({"ids": [1]}, "ids"),
        ({"ids": ("1",)}, "ids"),
    ],
)
def test_a_filter_that_could_match_nothing_is_refused(conditions: dict[str, Any], field: str) -> None:
    """
    A condition of a wrong type or value is an error that names it, not an empty result.
    """
    with pytest.raises(InvalidInput) as refused:
        FailedMessageFilter(**conditions)
    assert refused.value.field == field


def test_a_filter_takes_topic_names_as_send_does() -> None:
    """
    A malformed topic is refused with the same error as by `send`.
    """
    with pytest.raises(InvalidTopic):
        FailedMessageFilter(topic="a/b")


def test_delivered_messages_cannot_be_read(store: FailedMessageStore) -> None:
    """
    Asking for the payloads of delivered messages is an error that says what can be had.
    """
    where = FailedMessageFilter(state=FailedMessageState.DELIVERED)
    with pytest.raises(InvalidInput, match=r"status\(\)"):
        store.find(where)
    with pytest.raises(InvalidInput, match=r"status\(\)"):
        store.claim("r1", where, limit=1, lease_seconds=1)


def test_purging_deletes_what_matches_and_nothing_else(store: FailedMessageStore) -> None:
    """
    A purge tells how many it deleted, a dry run how many it would, and both spare what does not match.
    """
    store.keep([failed(key=key) for key in ("a", "b", "a")])
    where = FailedMessageFilter(key="a")
    assert store.purge(where, dry_run=True) == 2
    assert store.count() == 3
    assert store.purge(where) == 2
    assert [message.id for message in store.find()] == [2]
    assert store.purge(where) == 0


def test_purging_takes_any_number(store: FailedMessageStore) -> None:
    """
    A purge of more rows than one transaction takes deletes all of them.
    """
    store.keep([failed()] * 2500)
    assert store.purge(FailedMessageFilter()) == 2500
    assert store.count() == 0


def test_purging_spares_what_a_replayer_holds(store: FailedMessageStore, clock: ManualClock) -> None:
    """
    A message under a lease is not purged; once the lease is over it is.
    """
    store.keep([failed(), failed()])
    store.claim("r1", limit=1, lease_seconds=30)
    assert store.purge(FailedMessageFilter(), dry_run=True) == 1
    assert store.purge(FailedMessageFilter()) == 1
    assert store.purge(FailedMessageFilter(state=FailedMessageState.CLAIMED)) == 0
    clock.now += 31
    assert store.purge(FailedMessageFilter()) == 1


def test_records_of_deliveries_are_purged_separately(store: FailedMessageStore, clock: ManualClock) -> None:
    """
    A purge without a state spares the records of what was delivered; one that names it deletes those that match.
    """
    store.keep([failed(key="a", first_failed_at=START - 100), failed(key="b"), failed(key="b")])
    for number in (1, 2):
        store.confirm(number, MessageId(1, number))
    assert store.purge(FailedMessageFilter()) == 1
    delivered = FailedMessageState.DELIVERED
    assert store.count(FailedMessageFilter(state=delivered)) == 2
    assert store.count(FailedMessageFilter(state=delivered, key="b", topic="orders", error="SendTimeout")) == 1
    assert store.purge(FailedMessageFilter(state=delivered, older_than_seconds=50), dry_run=True) == 1
    assert store.purge(FailedMessageFilter(state=delivered, older_than_seconds=50)) == 1
    assert store.stats()["delivered"] == 1
    with pytest.raises(NoSuchFailedMessage, match="never kept here, or purged"):
        store.status(1)
    clock.now += 1
    assert store.status(2).message_id == MessageId(1, 2)


def test_statistics_always_have_the_same_keys(store: FailedMessageStore, clock: ManualClock) -> None:
    """
    The statistics count every message in one place, empty or not.
    """
    keys = {"kept", "claimed", "delivered", "corrupted", "oldest_age_seconds", "bytes"}
    empty = store.stats()
    assert set(empty) == keys
    assert (empty["kept"], empty["claimed"], empty["delivered"], empty["oldest_age_seconds"]) == (0, 0, 0, 0.0)
    store.keep([failed(b"x" * 50_000), failed(), failed()])
    store.claim("r1", limit=1, lease_seconds=10)
    store.confirm(3, MessageId(1, 1))
    clock.now += 5
    stats = store.stats()
    assert set(stats) == keys
    assert (stats["kept"], stats["claimed"], stats["delivered"], stats["corrupted"]) == (1, 1, 1, 0)
    assert stats["oldest_age_seconds"] == 5.0
    assert stats["bytes"] >= empty["bytes"] + 40_000  # the empty file has a little room already
    clock.now += 5
    assert store.stats()["claimed"] == 0
    assert store.corrupted_ids() == ()


def test_threads_may_use_it_together(store: FailedMessageStore) -> None:
    """
    What many threads keep at once is all there, each thread's in its own order.
    """
    ids: dict[int, list[int]] = {}

    def keep_some(name: int) -> None:
        ids[name] = [
            number for i in range(10) for number in store.keep([failed(f"{name} {i} {j}".encode()) for j in (0, 1)])
        ]

    threads = [threading.Thread(target=keep_some, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for each in ids.values() for number in each) == list(range(1, 161))
    for name, numbers in ids.items():
        assert numbers == sorted(numbers)
        assert [store.get(n).message.payload for n in numbers] == [
            f"{name} {i} {j}".encode() for i in range(10) for j in (0, 1)
        ]


def test_large_messages_are_kept(store: FailedMessageStore) -> None:
    """
    Payloads at the broker's limit come back whole, one and several.
    """
    payloads = [bytes([i]) * 5 * 1024 * 1024 for i in range(3)]
    store.keep([failed(payload) for payload in payloads])
    assert [message.message.payload for message in store.find()] == payloads
