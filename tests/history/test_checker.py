"""
Each kind of violation is planted in a valid history: the checker must find it, and nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from safepulsar.message import Certainty, MessageId
from tests.history import Kind, check
from tests.history.scene import identify

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.history.scene import Scene


def _lose_an_acked(scene: Scene) -> None:
    scene.accept("c")
    scene.history.acked("c", MessageId(7, 2))


def _lose_a_duplicate(scene: Scene) -> None:
    scene.accept("c")
    scene.history.duplicate("c")


def _lose_a_replayed(scene: Scene) -> None:
    scene.accept("c")
    scene.history.failed("c", Certainty.NOT_STORED, 1)
    scene.history.replayed("c")


def _find_a_stranger(scene: Scene) -> None:
    scene.topic.append(replace(scene.topic[0], properties={"id": "c"}, message_id=MessageId(7, 2)))


def _find_a_rejected(scene: Scene) -> None:
    scene.attempt("c")
    scene.history.rejected("c")
    scene.store("c")


def _find_a_not_stored(scene: Scene) -> None:
    scene.accept("c")
    scene.history.failed("c", Certainty.NOT_STORED, 1)
    scene.history.kept("c", 1)
    scene.store("c")


def _find_it_in_another_topic(scene: Scene) -> None:
    scene.accept("c")
    scene.history.failed("c", Certainty.MAYBE_STORED, 1)
    scene.history.kept("c", 1)
    scene.store("c")
    scene.history.found("persistent://public/default/invoices", [scene.topic.pop()], identify)


def _change_the_payload(scene: Scene) -> None:
    scene.deliver("c")
    scene.topic[-1] = replace(scene.topic[-1], payload=b"order C")


def _change_the_partition_key(scene: Scene) -> None:
    scene.deliver("c")
    scene.topic[-1] = replace(scene.topic[-1], partition_key="customer-2")


def _add_an_ordering_key(scene: Scene) -> None:
    scene.deliver("c")
    scene.topic[-1] = replace(scene.topic[-1], ordering_key="customer-1")


def _add_a_property(scene: Scene) -> None:
    scene.deliver("c")
    scene.topic[-1] = replace(scene.topic[-1], properties={"id": "c", "trace": "1"})


def _acknowledge_another_place(scene: Scene) -> None:
    scene.accept("c")
    scene.store("c")
    scene.history.acked("c", MessageId(7, 1))


def _store_an_acked_twice(scene: Scene) -> None:
    scene.deliver("c")
    scene.store("c")


def _store_one_try_twice(scene: Scene) -> None:
    scene.accept("c")
    scene.history.failed("c", Certainty.MAYBE_STORED, 1)
    scene.history.kept("c", 1)
    scene.store("c")
    scene.store("c")


def _ack_it_twice_without_ambiguity(scene: Scene) -> None:
    scene.deliver("c", "c")


def _store_a_replayed_twice(scene: Scene) -> None:
    scene.accept("c")
    scene.history.failed("c", Certainty.NOT_STORED, 1)
    scene.store("c")
    scene.store("c")
    scene.history.replayed("c")


def _store_it_again_though_deduplicated(scene: Scene) -> None:
    scene.accept("c")
    scene.history.failed("c", Certainty.MAYBE_STORED, 1)
    scene.history.kept("c", 1)
    scene.accept("c")
    scene.history.duplicate("c")
    scene.store("c")
    scene.store("c")


def _overtake(scene: Scene) -> None:
    scene.accept("c")
    scene.accept("d")
    scene.history.acked("d", scene.store("d"))
    scene.history.acked("c", scene.store("c"))


def _replay_behind_a_later_one(scene: Scene) -> None:
    scene.accept("c")
    scene.history.failed("c", Certainty.NOT_STORED, 1)
    scene.deliver("d")
    scene.store("c")
    scene.history.replayed("c")


def _say_nothing(scene: Scene) -> None:
    scene.accept("c")


def _say_nothing_after_the_kill(scene: Scene) -> None:
    scene.history.killed()
    scene.accept("c")


def _ack_twice(scene: Scene) -> None:
    scene.deliver("c")
    scene.history.acked("c", MessageId(7, 2))


def _fail_after_the_ack(scene: Scene) -> None:
    scene.deliver("c")
    scene.history.failed("c", Certainty.MAYBE_STORED, 1)


def _accept_after_refusing(scene: Scene) -> None:
    scene.attempt("c")
    scene.history.rejected("c")
    scene.history.failed("c", Certainty.NOT_STORED, 1)


def _forget_a_kept(scene: Scene) -> None:
    scene.accept("c")
    scene.history.failed("c", Certainty.NOT_STORED, 1)


def _keep_another_number(scene: Scene) -> None:
    scene.accept("c")
    scene.history.failed("c", Certainty.MAYBE_STORED, 1)
    scene.history.kept("c", 2)


def _keep_nothing(scene: Scene) -> None:
    scene.accept("c")
    scene.history.failed("c", Certainty.MAYBE_STORED, None)


def _miscount_the_accepted(scene: Scene) -> None:
    scene.history.ledger(accepted=3, delivered=2, duplicate=0, failed=0)


PLANTED: Final[list[tuple[Callable[[Scene], None], Kind, str]]] = [
    (_lose_an_acked, Kind.LOST, "c"),
    (_lose_a_duplicate, Kind.LOST, "c"),
    (_lose_a_replayed, Kind.LOST, "c"),
    (_find_a_stranger, Kind.UNEXPECTED, "c"),
    (_find_a_rejected, Kind.UNEXPECTED, "c"),
    (_find_a_not_stored, Kind.UNEXPECTED, "c"),
    (_find_it_in_another_topic, Kind.UNEXPECTED, "c"),
    (_change_the_payload, Kind.CORRUPT, "c"),
    (_change_the_partition_key, Kind.CORRUPT, "c"),
    (_add_an_ordering_key, Kind.CORRUPT, "c"),
    (_add_a_property, Kind.CORRUPT, "c"),
    (_acknowledge_another_place, Kind.MISPLACED, "c"),
    (_store_an_acked_twice, Kind.DUPLICATED, "c"),
    (_store_one_try_twice, Kind.DUPLICATED, "c"),
    (_ack_it_twice_without_ambiguity, Kind.DUPLICATED, "c"),
    (_store_a_replayed_twice, Kind.DUPLICATED, "c"),
    (_store_it_again_though_deduplicated, Kind.DUPLICATED, "c"),
    (_overtake, Kind.OUT_OF_ORDER, "c"),
    (_replay_behind_a_later_one, Kind.OUT_OF_ORDER, "c"),
    (_say_nothing, Kind.SILENT, "c"),
    (_say_nothing_after_the_kill, Kind.SILENT, "c"),
    (_ack_twice, Kind.TWO_FATES, "c"),
    (_fail_after_the_ack, Kind.TWO_FATES, "c"),
    (_accept_after_refusing, Kind.TWO_FATES, "c"),
    (_forget_a_kept, Kind.NOT_KEPT, "c"),
    (_keep_another_number, Kind.NOT_KEPT, "c"),
    (_keep_nothing, Kind.NOT_KEPT, "c"),
    (_miscount_the_accepted, Kind.UNBALANCED, ""),
]


@pytest.mark.parametrize(("plant", "kind", "identity"), PLANTED, ids=[case[0].__name__[1:] for case in PLANTED])
def test_a_planted_violation_is_found_and_nothing_else_is(
    scene: Scene, plant: Callable[[Scene], None], kind: Kind, identity: str
) -> None:
    """
    Each planted violation is found as what it is, once, with nothing else beside it.
    """
    plant(scene)
    found = [(violation.kind, violation.identity) for violation in check(scene.read()).violations]
    assert found == [(kind, identity)]


def test_every_kind_is_planted() -> None:
    """
    No kind of violation goes without a planted example.
    """
    assert {kind for _, kind, _ in PLANTED} == set(Kind)
