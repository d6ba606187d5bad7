"""
A producer name has one owner at a time, and what was recorded about it is there after any end of the process.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

import pytest

from safepulsar.errors import (
    InvalidInput,
    InvalidSettings,
    ProducerNameInUse,
    StoreCorrupted,
    StoreOfAnotherProducer,
    StoreTooNew,
    StoreUnavailable,
)
from safepulsar.exactly_once.producer_journal import ProducerJournal
from safepulsar.failed_messages import SqliteFailedMessages, schema
from safepulsar.message import MessageId
from safepulsar.processes import live_process
from tests.failed_messages.samples import START, ManualClock, failed, meddle
from tests.subprocesses import Script, run_script

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from safepulsar.exactly_once.producer_journal import JournalClaim

ORDERS = "persistent://public/default/orders"
OTHER = "persistent://public/default/other"
_PREAMBLE = """
import os, sys, threading

from safepulsar.errors import *
from safepulsar.failed_messages import SqliteFailedMessages
from safepulsar.message import MessageId
from safepulsar.exactly_once.producer_journal import ProducerJournal

path = sys.argv[1]
topic = "persistent://public/default/orders"
"""


@pytest.fixture
def clock() -> ManualClock:
    """
    The clock of the leases.
    """
    return ManualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """
    Where the store is.
    """
    return tmp_path / "store" / "failed.db"


@pytest.fixture
def store(path: Path, clock: ManualClock) -> Iterator[SqliteFailedMessages]:
    """
    An open store.
    """
    with SqliteFailedMessages(path, clock=clock) as opened:
        yield opened


@pytest.fixture
def journal(store: SqliteFailedMessages) -> ProducerJournal:
    """
    Its journal.
    """
    return ProducerJournal(store)


def _claim(journal: ProducerJournal, owner: str = "host-1", topic: str = ORDERS) -> JournalClaim:
    return journal.claim("shop", topic, owner=owner, lease_seconds=30)


def test_a_new_name_knows_nothing(journal: ProducerJournal) -> None:
    """
    Of a name that was never used nothing is confirmed, allocated, positioned or counted.
    """
    claim = _claim(journal)
    assert (claim.confirmed, claim.allocated, claim.positions, claim.source) == (0, 0, {}, None)
    assert (claim.producer_name, claim.topic, claim.fencing_token) == ("shop", ORDERS, 1)
    assert repr(claim) == "<JournalClaim of 'shop', fencing token 1>"


def test_what_was_recorded_is_there_for_the_next_owner(journal: ProducerJournal, path: Path) -> None:
    """
    Everything that was written comes back through another store on the same file, with a higher fencing token.
    """
    claim = _claim(journal)
    assert claim.allocate(3) == range(1, 4)
    claim.advance(10)
    assert list(claim.allocate(2)) == [11, 12]
    claim.set_source("sha256:abc")
    claim.record(confirmed=7, positions={-1: MessageId(5, 6), 2: MessageId(7, 8, 2, 9)})
    claim.record(confirmed=7, positions={-1: MessageId(5, 7)})
    claim.release()
    with SqliteFailedMessages(path) as other:
        again = _claim(ProducerJournal(other))
        assert again.fencing_token == 2
        assert (again.confirmed, again.allocated, again.source) == (7, 12, "sha256:abc")
        assert again.positions == {-1: MessageId(5, 7), 2: MessageId(7, 8, 2, 9)}


def test_an_id_is_never_reused(journal: ProducerJournal) -> None:
    """
    Neither advancing to less, nor recording, nor a new owner ever brings an id back that could have been used.
    """
    claim = _claim(journal)
    claim.allocate(5)
    claim.advance(2)
    assert claim.allocate(1) == range(6, 7)
    claim.record(confirmed=20, positions={})  # ids that the application counted itself
    claim.release()
    assert _claim(journal).allocate(1) == range(21, 22)


def test_what_is_final_stays_final(journal: ProducerJournal) -> None:
    """
    A confirmed id can't be taken back; the attempt changes nothing.
    """
    claim = _claim(journal)
    claim.record(confirmed=5, positions={-1: MessageId(1, 5)})
    with pytest.raises(InvalidInput, match="at least 5"):
        claim.record(confirmed=4, positions={-1: MessageId(1, 4)})
    claim.release()
    again = _claim(journal)
    assert (again.confirmed, again.positions) == (5, {-1: MessageId(1, 5)})


def test_a_name_in_use_says_who_has_it(journal: ProducerJournal) -> None:
    """
    The error names the topic, the holder, when its lease ends, and what to do; and it may pass by itself.
    """
    _claim(journal)
    with pytest.raises(ProducerNameInUse) as caught:
        _claim(journal, "host-2")
    assert str(caught.value) == (
        "producer name 'shop' of topic 'persistent://public/default/orders' is in use by 'host-1': end it, or use "
        "another producer name; if it is gone already, and the system can't tell, its lease ends at 1970-01-12T13:47:10+00:00"
    )
    assert caught.value.retriable


def test_a_name_belongs_to_one_topic(journal: ProducerJournal) -> None:
    """
    The same name for another topic is refused with both named, whether it is held or not.
    """
    claim = _claim(journal)
    for _ in range(2):
        with pytest.raises(StoreOfAnotherProducer, match=f"'{ORDERS}' in this store, not to '{OTHER}'"):
            _claim(journal, topic=OTHER)
        claim.release()


def test_names_are_independent(journal: ProducerJournal) -> None:
    """
    Each name has its own owner and its own ids.
    """
    first = _claim(journal)
    first.allocate(5)
    second = journal.claim("office", OTHER, owner="host-2", lease_seconds=30)
    assert second.allocate(1) == range(1, 2)
    assert first.allocate(1) == range(6, 7)


def test_the_ids_count_one_source(journal: ProducerJournal) -> None:
    """
    What the ids count is said once; the same again is no harm, another one is refused.
    """
    claim = _claim(journal)
    claim.set_source("a")
    claim.set_source("a")
    with pytest.raises(StoreOfAnotherProducer, match="count another input"):
        claim.set_source("b")
    assert claim.source == "a"


def test_who_takes_over_shuts_the_other_out(journal: ProducerJournal, clock: ManualClock) -> None:
    """
    When the lease is over the next owner gets the name, and the late one can't write any more.
    """
    late = _claim(journal)
    clock.now += 29.9
    with pytest.raises(ProducerNameInUse):
        _claim(journal, "host-2")
    clock.now += 0.1
    late.allocate(1)  # nobody took over yet
    taken = _claim(journal, "host-2")
    for write in (
        lambda: late.allocate(1),
        lambda: late.advance(5),
        lambda: late.record(confirmed=1, positions={}),
        lambda: late.set_source("x"),
        lambda: late.extend(30),
    ):
        with pytest.raises(ProducerNameInUse, match="'host-2': it took over"):
            write()
    late.release()  # is no harm
    assert taken.allocate(1) == range(2, 3)
    assert (taken.confirmed, taken.source) == (0, None)


def test_a_lease_can_be_extended(journal: ProducerJournal, clock: ManualClock) -> None:
    """
    From the moment of the extension on, others wait for so long.
    """
    claim = _claim(journal)
    clock.now += 29
    claim.extend(30)
    clock.now += 29
    with pytest.raises(ProducerNameInUse):
        _claim(journal, "host-2")
    clock.now += 1
    assert _claim(journal, "host-2").fencing_token == 2


def test_a_clock_that_jumps_back_locks_nobody_out(journal: ProducerJournal, clock: ManualClock) -> None:
    """
    A lease that ends later than any can was taken by another clock, and counts as over.
    """
    _claim(journal)
    clock.now = START - 86_400
    assert _claim(journal, "host-2").fencing_token == 2


def test_a_released_claim_is_over(journal: ProducerJournal) -> None:
    """
    After its release nothing can be written through it; a second release does nothing.
    """
    claim = _claim(journal)
    claim.release()
    claim.release()
    with pytest.raises(ProducerNameInUse, match="was released; claim it again"):
        claim.allocate(1)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"producer_name": ""}, "producer_name"),
        ({"producer_name": 7}, "producer_name"),
        ({"producer_name": "a\nb"}, "producer_name"),
        ({"topic": ""}, "topic"),
        ({"owner": ""}, "owner"),
        ({"lease_seconds": 0}, "lease_seconds"),
        ({"lease_seconds": 86_401}, "lease_seconds"),
    ],
)
def test_a_wrong_claim_is_refused(journal: ProducerJournal, arguments: dict[str, object], field: str) -> None:
    """
    Names and leases that could not work are typed errors that name the field.
    """
    right: dict[str, object] = {"producer_name": "shop", "topic": ORDERS, "owner": "host-1", "lease_seconds": 30}
    with pytest.raises((InvalidInput, InvalidSettings), match=field):
        journal.claim(**{**right, **arguments})  # type: ignore[arg-type]  # that is what is tested


@pytest.mark.parametrize("value", [-1, 2**63, True, "7", 1.0, None])
def test_what_is_no_sequence_id_is_refused(journal: ProducerJournal, value: int) -> None:
    """
    Ids are whole numbers from 0 to 2**63 - 1, and counts from 1; nothing is written otherwise.
    """
    claim = _claim(journal)
    for write in (
        lambda: claim.advance(value),
        lambda: claim.record(confirmed=value, positions={}),
        lambda: claim.allocate(value),
    ):
        with pytest.raises(InvalidInput):
            write()
    with pytest.raises(InvalidInput):
        claim.allocate(0)
    assert claim.allocate(1) == range(1, 2)


def test_ids_end_with_the_last_one(journal: ProducerJournal) -> None:
    """
    The last 63-bit number is handed out, and then no more.
    """
    claim = _claim(journal)
    claim.advance(2**63 - 3)
    with pytest.raises(InvalidInput, match="from 1 to 2, the ids that are left"):
        claim.allocate(3)
    assert list(claim.allocate(2)) == [2**63 - 2, 2**63 - 1]
    with pytest.raises(InvalidInput):
        claim.allocate(1)


@pytest.mark.parametrize(
    "change",
    [
        "confirmed = confirmed + 1",
        "allocated = 0",
        "topic = 'persistent://public/default/others'",
        "positions = '[[-1,1,3,-1,-1]]'",
        "fencing_token = 2",
        "name = 'shop2'",
        "topic = CAST(x'ff' AS TEXT)",
    ],
)
def test_a_damaged_row_is_never_believed(journal: ProducerJournal, path: Path, change: str) -> None:
    """
    Whatever was changed on disk, the name is refused: a wrong count would lose messages.
    """
    claim = _claim(journal)
    claim.record(confirmed=4, positions={-1: MessageId(1, 2)})
    claim.release()
    meddle(path, f"UPDATE producers SET {change}")  # noqa: S608 - a constant of this test
    name = "shop2" if "shop2" in change else "shop"
    with pytest.raises(StoreCorrupted, match="fails its checksum"):
        journal.claim(name, ORDERS, owner="host-1", lease_seconds=30)


def test_a_closed_store_has_no_journal(store: SqliteFailedMessages, journal: ProducerJournal) -> None:
    """
    Without an open store every call says so.
    """
    claim = _claim(journal)
    store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        claim.allocate(1)
    with pytest.raises(StoreUnavailable, match="closed"):
        _claim(journal)


def test_a_file_of_before_gets_a_journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A store of the first version keeps its messages and gets the journal; the first version then leaves it alone.
    """
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        patch.setattr(schema, "VERSION", 1)
        with SqliteFailedMessages(path) as store:
            store.keep([failed(b"old")])
    with SqliteFailedMessages(path) as store:
        assert [message.message.payload for message in store.find()] == [b"old"]
        assert _claim(ProducerJournal(store)).allocate(1) == range(1, 2)
    monkeypatch.setattr(schema, "VERSION", 1)
    with pytest.raises(StoreTooNew):
        SqliteFailedMessages(path).open()


def test_threads_never_get_the_same_id(journal: ProducerJournal) -> None:
    """
    Of eight threads that allocate at once, each gets ids of its own, and together they have them all.
    """
    claim = _claim(journal)
    taken: list[range] = []
    threads = [
        threading.Thread(target=lambda: taken.extend([claim.allocate(n) for n in (1, 7, 3, 2, 5)])) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for ids in taken for number in ids) == list(range(1, 8 * 18 + 1))


def test_a_dead_process_holds_nothing(journal: ProducerJournal, path: Path) -> None:
    """
    A name whose owner was killed is free at once, long before its lease is over; while it lives it is not.
    """
    script = (
        _PREAMBLE
        + """
store = SqliteFailedMessages(path, clock=lambda: 1_000_000.0).open()
claim = ProducerJournal(store).claim("shop", topic, owner="theirs", lease_seconds=3600)
print(list(claim.allocate(3)), flush=True)
threading.Event().wait()
"""
    )
    with Script(script, path) as owner:
        owner.wait_for("[1, 2, 3]")
        with pytest.raises(ProducerNameInUse, match="'theirs'"):
            _claim(journal)
        owner.send_signal(signal.SIGKILL)
        owner.finish(timeout_seconds=20)
        claim = _claim(journal)
    assert (claim.fencing_token, claim.allocate(1)) == (2, range(4, 5))


def test_a_living_process_keeps_what_it_holds(journal: ProducerJournal, path: Path, clock: ManualClock) -> None:
    """
    However long ago the lease of another process ended, while it lives what it sent may still arrive.
    """
    script = (
        _PREAMBLE
        + """
store = SqliteFailedMessages(path, clock=lambda: 1_000_000.0).open()
claim = ProducerJournal(store).claim("shop", topic, owner="theirs", lease_seconds=1)
print("claimed", flush=True)
threading.Event().wait()
"""
    )
    with Script(script, path) as owner:
        owner.wait_for("claimed")
        clock.now += 3600
        with pytest.raises(ProducerNameInUse, match="'theirs': end it"):
            _claim(journal)
        owner.send_signal(signal.SIGKILL)
        owner.finish(timeout_seconds=20)
    assert _claim(journal).fencing_token == 2


def test_where_nobody_can_tell_the_lease_counts(
    journal: ProducerJournal, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    On a system without /proc a name is free when the lease of its owner ends.
    """
    monkeypatch.setattr(live_process, "_SYSTEM", tmp_path)
    _claim(journal)
    clock.now += 29
    with pytest.raises(ProducerNameInUse):
        _claim(journal, "host-2")
    clock.now += 1
    assert _claim(journal, "host-2").fencing_token == 2


def test_a_claim_belongs_to_the_process_that_made_it(path: Path) -> None:
    """
    A forked child can't write through its parent's claim, nor take the name; the parent goes on.
    """
    output = run_script(
        _PREAMBLE
        + """
store = SqliteFailedMessages(path).open()
claim = ProducerJournal(store).claim("shop", topic, owner="parent", lease_seconds=60)
claim.allocate(1)
pid = os.fork()
if pid == 0:
    for write in (lambda: claim.allocate(1), claim.release,
                  lambda: ProducerJournal(store).claim("shop", topic, owner="child", lease_seconds=60)):
        try:
            write()
        except (ForkedProcess, ProducerNameInUse) as error:
            print(type(error).__name__, flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print(claim.allocate(1)[0])
""",
        path,
    ).check()
    assert output.split() == ["ForkedProcess", "ForkedProcess", "ProducerNameInUse", "2"]


def test_one_of_many_processes_gets_the_name(path: Path) -> None:
    """
    Of eight processes that claim one name at the same moment, one gets it, and the others hear who has it.
    """
    output = run_script(
        _PREAMBLE
        + """
go, answers, stay = os.pipe(), os.pipe(), os.pipe()
pids = []
for number in range(8):
    pid = os.fork()
    if pid == 0:
        os.close(stay[1])
        os.read(go[0], 1)
        store = SqliteFailedMessages(path).open()
        try:
            ProducerJournal(store).claim("shop", topic, owner=f"p{number}", lease_seconds=60)
            answer = f"got p{number}"
        except ProducerNameInUse as error:
            answer = "refused for " + str(error).split("'")[5]
        os.write(answers[1], f"{answer}\\n".encode())
        os.read(stay[0], 1)  # a dead winner would be no winner
        os._exit(0)
    pids.append(pid)
os.write(go[1], b"x" * 8)
with open(answers[0]) as lines:
    for _ in range(8):
        print(lines.readline(), end="")
os.close(stay[1])
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
""",
        path,
    ).check()
    lines = output.splitlines()
    winner = next(line.split()[1] for line in lines if line.startswith("got"))
    assert sorted(lines) == sorted([f"got {winner}", *[f"refused for {winner}"] * 7])
