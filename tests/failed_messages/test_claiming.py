"""
Contract of every store: no two replayers hold one message, and each lane is replayed in order.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import pytest

from safepulsar.errors import InvalidInput, NoSuchFailedMessage
from safepulsar.failed_messages import FailedAgain, FailedMessageFilter, FailedMessageState, FailedMessageStatus
from safepulsar.message import Certainty, MessageId
from tests.failed_messages.samples import ORDERS, START, attempt, failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from safepulsar.failed_messages import FailedMessageStore
    from safepulsar.message import FailedMessage
    from tests.failed_messages.samples import ManualClock

MAYBE, SURELY_NOT = Certainty.MAYBE_STORED, Certainty.NOT_STORED


def ids(messages: list[FailedMessage]) -> list[int | None]:
    """
    The ids of messages, in their order.
    """
    return [message.id for message in messages]


def claim(
    store: FailedMessageStore,
    owner: str,
    limit: int = 100,
    lease_seconds: float = 30,
    **where: Any,  # noqa: ANN401 - the filter's conditions
) -> list[int | None]:
    """
    Claim, and return the ids.
    """
    return ids(store.claim(owner, FailedMessageFilter(**where), limit=limit, lease_seconds=lease_seconds))


def test_a_claim_takes_the_oldest_first_and_nothing_twice(store: FailedMessageStore) -> None:
    """
    Claims hand out messages in the order of ids, each once, with all that was kept.
    """
    store.keep([failed(str(i).encode()) for i in range(5)])
    first = store.claim("r1", limit=2, lease_seconds=30)
    assert [message.message.payload for message in first] == [b"0", b"1"]
    assert claim(store, "r1", limit=2) == [3, 4]
    assert claim(store, "r2") == [5]
    assert claim(store, "r1") == claim(store, "r2") == []


def test_a_lane_is_in_one_owners_hands(store: FailedMessageStore) -> None:
    """
    While one owner holds a message of a lane, no other gets any of that lane; other lanes are free.
    """
    store.keep([failed(key=key) for key in ("a", "b", "a", "b", "a")])
    assert claim(store, "r1", limit=1) == [1]
    assert claim(store, "r2", limit=2) == [2, 4]
    assert claim(store, "r2") == []
    assert claim(store, "r1") == [3, 5]


def test_the_same_key_of_another_topic_is_another_lane(store: FailedMessageStore) -> None:
    """
    A lane is a topic and a key, not a key alone.
    """
    store.keep([failed(key="a"), failed(key="a", topic="persistent://public/default/other")])
    assert claim(store, "r1", limit=1) == [1]
    assert claim(store, "r2") == [2]


def test_messages_without_a_key_are_in_no_lane(store: FailedMessageStore) -> None:
    """
    Messages without a key wait for no other.
    """
    store.keep([failed(), failed(), failed()])
    assert claim(store, "r1", limit=1) == [1]
    assert claim(store, "r2", limit=1) == [2]


def test_a_filter_does_not_overtake_within_a_lane(store: FailedMessageStore) -> None:
    """
    A message is not handed out while an earlier one of its lane is left out by the filter.
    """
    store.keep(
        [failed(key="a", error="Other"), failed(key="a"), failed(key="b"), failed(), failed(key="b", error="Other")]
    )
    assert claim(store, "r1", error="SendTimeout") == [3, 4]
    assert claim(store, "r1", ids=(2,)) == []
    assert claim(store, "r1", error="Other") == [1, 5]
    assert claim(store, "r1", error="SendTimeout") == [2]


@pytest.mark.parametrize("limit", [1, 2])
def test_a_gap_in_a_lane_holds_back_only_what_is_behind_it(store: FailedMessageStore, limit: int) -> None:
    """
    Of a first and a third of one lane, asked for by their ids, the first may go.
    """
    store.keep([failed(key="a"), failed(key="a"), failed(key="a"), failed(key=None)])
    assert claim(store, "r1", limit=limit, ids=(1, 3, 4)) == [1, 4][:limit]


def test_a_claim_is_bounded_in_bytes(store: FailedMessageStore) -> None:
    """
    A claim takes no more payload than allowed, but always at least one message.
    """
    store.keep([failed(b"x" * 1000), failed(b"x" * 400), failed(None), failed(b"x" * 400), failed(b"x" * 400)])
    taken = [ids(store.claim("r1", limit=10, lease_seconds=30, max_bytes=900)) for _ in range(4)]
    assert taken == [[1], [2, 3, 4], [5], []]


def test_a_lease_that_ran_out_may_be_taken_over_and_leaves_a_doubt(
    store: FailedMessageStore, clock: ManualClock
) -> None:
    """
    When a lease runs out the message is there for others, as `MAYBE_STORED`, because its owner may have sent it.
    """
    store.keep([failed(key="a"), failed(key="a")])
    assert claim(store, "r1", lease_seconds=30) == [1, 2]
    assert store.get(1).certainty is SURELY_NOT
    clock.now += 29.5
    assert claim(store, "r2") == []
    clock.now += 0.5
    assert store.get(1).certainty is MAYBE
    assert store.count(FailedMessageFilter(certainty=MAYBE)) == 2
    taken = store.claim("r2", limit=1, lease_seconds=30)
    assert ids(taken) == [1]
    assert taken[0].certainty is MAYBE
    store.release("r2")
    assert [message.certainty for message in store.find()] == [MAYBE, MAYBE]


def test_a_late_owner_has_no_say_after_a_takeover(store: FailedMessageStore, clock: ManualClock) -> None:
    """
    Whatever an owner says about a message that another took over is refused, and the answer tells so.
    """
    store.keep([failed(key="a")])
    claim(store, "slow", lease_seconds=10)
    clock.now += 11
    assert claim(store, "quick", lease_seconds=10) == [1]
    assert store.delivered("slow", {1: MessageId(1, 1)}) == []
    assert store.failed_again("slow", [FailedAgain(id=1, attempts=(), certainty=SURELY_NOT, error="X")]) == []
    assert store.release("slow") == store.release("slow", [1]) == []
    assert store.extend("slow", [1], 10) == []
    status = store.status(1)
    assert (status.state, status.owner, status.lease_ends_at) == (FailedMessageState.CLAIMED, "quick", START + 21)
    assert store.get(1).error == "SendTimeout"
    assert store.delivered("quick", {1: MessageId(2, 2)}) == [1]


def test_a_late_owner_may_still_speak_while_nobody_took_over(store: FailedMessageStore, clock: ManualClock) -> None:
    """
    A lease that ran out is not renewed, but what its owner knows of the message still counts.
    """
    store.keep([failed() for _ in range(3)])
    claim(store, "r1", lease_seconds=10)
    clock.now += 11
    assert store.extend("r1", [1, 2, 3], 10) == []
    assert store.delivered("r1", {1: MessageId(1, 1)}) == [1]
    assert store.failed_again("r1", [FailedAgain(id=2, attempts=(), certainty=SURELY_NOT, error="X")]) == [2]
    assert store.release("r1", [3]) == [3]
    assert [(message.id, message.certainty) for message in store.find()] == [(2, SURELY_NOT), (3, SURELY_NOT)]


def test_a_heartbeat_keeps_the_lease(store: FailedMessageStore, clock: ManualClock) -> None:
    """
    Extending counts from now on, for the messages named and still held, and says which those are.
    """
    store.keep([failed(), failed(), failed()])
    claim(store, "r1", limit=2, lease_seconds=10)
    clock.now += 9
    assert store.extend("r1", [2, 3, 99], 10) == [2]
    clock.now += 9
    assert claim(store, "r2") == [1, 3]
    assert store.status(2).owner == "r1"


def test_a_clock_that_goes_back_locks_nothing_up_for_long(store: FailedMessageStore, clock: ManualClock) -> None:
    """
    A lease that ends more than a day ahead is over: it was taken before the clock went back.
    """
    store.keep([failed()])
    claim(store, "dead", lease_seconds=60)
    clock.now -= 3600
    assert claim(store, "r1") == []
    clock.now -= 90_000
    assert claim(store, "r1") == [1]


def test_a_delivered_message_is_gone_but_explained(store: FailedMessageStore, clock: ManualClock) -> None:
    """
    After the replay the message can't be had any more, and every question is answered with when and where.
    """
    store.keep([failed(key="a"), failed(key="a")])
    claim(store, "r1")
    clock.now = 1_767_225_600.0
    assert store.delivered("r1", {2: MessageId(7, 8, 0, 1), 1: MessageId(7, 7)}) == [1, 2]
    assert store.status(2) == FailedMessageStatus(
        id=2,
        topic=ORDERS,
        state=FailedMessageState.DELIVERED,
        owner="r1",
        delivered_at=1_767_225_600.0,
        message_id=MessageId(7, 8, 0, 1),
    )
    with pytest.raises(NoSuchFailedMessage, match=r"replayed at 2026-01-01T00:00:00\+00:00 as message id 7:8:0:1"):
        store.get(2)
    assert store.delivered("r1", {2: MessageId(9, 9)}) == []
    assert store.status(2).message_id == MessageId(7, 8, 0, 1)
    assert store.count() == 0
    assert store.stats()["delivered"] == 2


def test_a_late_acknowledgement_settles_a_message(store: FailedMessageStore) -> None:
    """
    A confirmation needs no claim, works once, and lets the lane go on.
    """
    store.keep([failed(key="a", certainty=MAYBE), failed(key="a")])
    assert store.confirm(1, MessageId(3, 4)) is True
    assert store.confirm(1, MessageId(3, 5)) is False
    assert store.confirm(99, MessageId(3, 5)) is False
    assert (store.status(1).message_id, store.status(1).owner) == (MessageId(3, 4), None)
    with pytest.raises(NoSuchFailedMessage, match="acknowledged late"):
        store.get(1)
    assert claim(store, "r1") == [2]


def test_a_late_acknowledgement_takes_the_message_from_its_replayer(store: FailedMessageStore) -> None:
    """
    A replayer that holds a confirmed message learns so before and after sending it.
    """
    store.keep([failed(key="a", certainty=MAYBE), failed(key="a")])
    claim(store, "r1")
    assert store.confirm(1, MessageId(3, 4)) is True
    assert store.extend("r1", [1, 2], 30) == [2]
    assert store.delivered("r1", {1: MessageId(5, 5), 2: MessageId(5, 6)}) == [2]
    assert store.status(1).message_id == MessageId(3, 4)


def test_a_replay_that_fails_is_added_to_the_history(store: FailedMessageStore, clock: ManualClock) -> None:
    """
    Attempts add up, the last error and time are updated, the first are not, and the claim is given back.
    """
    store.keep([failed(b"p", key="a")])
    claim(store, "r1")
    clock.now += 5
    one = FailedAgain(id=1, attempts=(attempt("A"),), certainty=SURELY_NOT, error="A")
    assert store.failed_again("r1", [one]) == [1]
    claim(store, "r2")
    clock.now += 5
    two = FailedAgain(id=1, attempts=(attempt("B", maybe_stored=True), attempt("C")), certainty=MAYBE, error="C")
    assert store.failed_again("r2", [two]) == [1]
    message = store.get(1)
    assert [each.code for each in message.attempts] == ["A", "B", "C"]
    assert (message.error, message.certainty) == ("C", MAYBE)
    assert (message.accepted_at, message.first_failed_at, message.last_failed_at) == (START - 1, START, START + 10)
    assert message.message.payload == b"p"
    assert store.status(1).state is FailedMessageState.KEPT


def test_a_doubt_never_goes_away(store: FailedMessageStore) -> None:
    """
    `MAYBE_STORED` stays, even if a later replay was surely not stored.
    """
    store.keep([failed(certainty=MAYBE)])
    claim(store, "r1")
    store.failed_again("r1", [FailedAgain(id=1, attempts=(), certainty=SURELY_NOT, error="X")])
    assert store.get(1).certainty is MAYBE


def test_the_history_of_a_message_is_bounded(store: FailedMessageStore) -> None:
    """
    Of many attempts the first 10 and the last 90 remain.
    """
    store.keep([failed()])
    for i in range(30):
        claim(store, "r1")
        attempts = tuple(attempt(f"{i}.{j}") for j in range(4))
        store.failed_again("r1", [FailedAgain(id=1, attempts=attempts, certainty=SURELY_NOT, error="X")])
    codes = [each.code for each in store.get(1).attempts]
    assert len(codes) == 100
    assert codes[:10] == [f"{i}.{j}" for i in range(3) for j in range(4)][:10]
    assert codes[-1] == "29.3"


def test_releasing_gives_back_untouched(store: FailedMessageStore) -> None:
    """
    What is released is as it was and may be claimed at once; None releases all of an owner, and only that.
    """
    store.keep([failed() for _ in range(4)])
    before = list(store.find())
    claim(store, "r1", limit=3)
    claim(store, "r2")
    assert store.release("r1", [2, 4, 99]) == [2]
    assert store.release("r1") == [1, 3]
    assert store.release("r1") == []
    assert list(store.find()) == before
    assert claim(store, "r3") == [1, 2, 3]


def test_a_failure_in_a_lane_stops_what_is_behind_it_for_others(store: FailedMessageStore) -> None:
    """
    A message given back goes first again, and what its owner still holds behind it keeps others out of the lane.
    """
    store.keep([failed(key="a") for _ in range(3)])
    claim(store, "r1", limit=2)
    store.failed_again("r1", [FailedAgain(id=1, attempts=(), certainty=SURELY_NOT, error="X")])
    assert claim(store, "r2") == []
    store.release("r1", [2])
    assert claim(store, "r2") == [1, 2, 3]


def test_two_replayers_share_without_meeting(store: FailedMessageStore) -> None:
    """
    Four replayers at once deliver everything exactly once, each lane in order.
    """
    store.keep([failed(key=f"k{i % 7}" if i % 8 else None) for i in range(400)])
    sent: list[tuple[int, str | None]] = []

    def replay(owner: str) -> None:
        while store.count():
            for message in store.claim(owner, limit=5, lease_seconds=30):
                sent.append((message.id or 0, message.message.partition_key))
                store.delivered(owner, {message.id or 0: MessageId(1, message.id or 0)})

    threads = [threading.Thread(target=replay, args=(f"r{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number, _ in sent) == list(range(1, 401))
    for key in {key for _, key in sent} - {None}:
        of_lane = [number for number, each in sent if each == key]
        assert of_lane == sorted(of_lane)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"owner": ""}, "owner"),
        ({"owner": "a\nb"}, "owner"),
        ({"owner": 7}, "owner"),
        ({"limit": 0}, "limit"),
        ({"limit": 2.0}, "limit"),
        ({"limit": 10**6}, "limit"),
        ({"lease_seconds": 0}, "lease_seconds"),
        ({"lease_seconds": math.nan}, "lease_seconds"),
        ({"lease_seconds": 86_401}, "lease_seconds"),
        ({"lease_seconds": "30"}, "lease_seconds"),
        ({"max_bytes": 0}, "max_bytes"),
    ],
)
def test_bad_arguments_of_a_claim_are_named(store: FailedMessageStore, arguments: dict[str, Any], field: str) -> None:
    """
    An owner without a name, a limit or a lease out of range is a typed error that names the argument.
    """
    with pytest.raises(InvalidInput) as refused:
        store.claim(**{"owner": "r1", "limit": 1, "lease_seconds": 30, **arguments})
    assert refused.value.field == field


def test_owners_and_leases_are_checked_everywhere(store: FailedMessageStore) -> None:
    """
    The other methods of a replayer check owner and lease alike.
    """
    calls: list[Callable[[], object]] = [
        lambda: store.extend("", [1], 30),
        lambda: store.delivered("", {}),
        lambda: store.failed_again("", []),
        lambda: store.release(""),
    ]
    for call in calls:
        with pytest.raises(InvalidInput, match="owner"):
            call()
    with pytest.raises(InvalidInput, match="lease_seconds"):
        store.extend("r1", [1], -1)
