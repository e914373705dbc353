"""A cluster's map, and commands on their way through it; no server."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from featurechaos.errors import StoreRefused, StoreTimeout, StoreUnavailable
from featurechaos.stores import Partial
from featurechaos_redis import rounds
from featurechaos_redis.chart import SLOTS, At, Chart, Pace, Range, ranges_of, redirect_of, slot_of
from featurechaos_redis.errors import BadReply, error_reply
from featurechaos_redis.scatter import Job, Scatter
from featurechaos_redis.wire import command

if TYPE_CHECKING:
    from tests.redis.conftest import Kit

A, B, C = At("a", 1), At("b", 2), At("c", 3)
HALVES = [Range(0, 8191, A), Range(8192, SLOTS - 1, B)]


def chart_of(*ranges: Range, gone: list[str] | None = None) -> Chart[str]:
    """A map whose pools are only names."""
    chart = Chart(str, [A], let_go=([] if gone is None else gone).append)
    if ranges:
        chart.learn(ranges)
    return chart


def served(scatter: Scatter[Any], answer: Any) -> None:
    """Let each node answer what `answer(node, job, is_asking)` says, until all is over."""
    while not scatter.is_over:
        for parcel in scatter.parcels():
            replies: list[Any] = []
            for job in parcel.jobs:
                replies += [b"OK"] if job.is_asking else []
                replies.append(answer(parcel.node.at, job))
            assert len(replies) == parcel.replies
            scatter.delivered(parcel, replies)


@given(st.binary(max_size=40))
def test_slot_is_the_one_that_clients_and_servers_agree_on(key: bytes) -> None:
    assert slot_of(key) == key_slot(key)
    assert slot_of(b"fc:p:v:{" + key + b"}") == key_slot(b"fc:p:v:{" + key + b"}")


@given(st.lists(st.binary(max_size=6), unique=True, max_size=20))
def test_every_row_is_asked_for_once_at_its_slot(kit: Kit, ids: list[bytes]) -> None:
    one, other = kit.ask([]), kit.ask([], kit.other)
    one.keys.ids = other.keys.ids = ids

    jobs, count = rounds.read_jobs([one, other])

    assert count == 2 * len(ids)
    assert sorted(place for job in jobs for place in job.tag) == list(range(count))
    assert len({job.slot for job in jobs}) == len(jobs)
    wanted = [ask.view.head + id_ + b"}" for ask in (one, other) for id_ in ids]
    for job in jobs:
        assert [wanted[place] for place in job.tag] == job.keys
        assert {key_slot(key) for key in job.keys} == {job.slot}
        assert job.data == command(b"MGET", *job.keys)


def test_map_is_read_from_what_servers_say() -> None:
    reply = [
        [0, 100, [b"10.0.0.1", 7001, b"id", []], [b"10.0.0.2", 7002, b"id"]],
        [101, 16383, [b"", 7003, b"id"]],
    ]
    wanted = [Range(0, 100, At("10.0.0.1", 7001)), Range(101, 16383, At("asked", 7003))]

    assert ranges_of(reply, At("asked", 1)) == wanted
    assert ranges_of([[0, 1, [None, 7003]]], At("asked", 1)) == [Range(0, 1, At("asked", 7003))]


@pytest.mark.parametrize(
    "reply", [None, b"OK", [], [[0]], [[0, 1]], [[0, 99999, [b"a", 1]]], [[5, 4, [b"a", 1]]], [[0, 1, [b"\xff", 1]]]]
)
def test_what_is_no_map_is_refused(reply: Any) -> None:
    with pytest.raises(BadReply):
        ranges_of(reply, A)


def test_error_instead_of_a_map_is_raised() -> None:
    with pytest.raises(Exception, match="cluster support disabled"):
        ranges_of(error_reply("ERR This instance has cluster support disabled"), A)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("MOVED 5 10.0.0.1:7001", (5, At("10.0.0.1", 7001), False)),
        ("ASK 5 10.0.0.1:7001", (5, At("10.0.0.1", 7001), True)),
        ("MOVED 5 :7001", (5, At("a", 7001), False)),
        ("MOVED 5 [::1]:7001", (5, At("::1", 7001), False)),
        ("MOVED 5 ::1:7001", (5, At("::1", 7001), False)),
        ("MOVED 5 node.example:7001", (5, At("node.example", 7001), False)),
        ("MOVED", None),
        ("MOVED x y:z", None),
        ("MOVED 99999 h:1", None),
        ("READONLY You can't write", None),
    ],
)
def test_redirection_is_read(text: str, wanted: Any) -> None:
    assert redirect_of(error_reply(text), A) == wanted


def test_one_parcel_a_node_and_replies_in_their_order() -> None:
    jobs = [Job(slot, b"%d" % slot) for slot in (9000, 1, 8192, 2)]
    scatter = Scatter(jobs, chart_of(*HALVES), "it")

    first, second = scatter.parcels()

    assert (first.node.at, first.data, second.node.at, second.data) == (B, b"90008192", A, b"12")
    assert scatter.delivered(first, [b"x", b"y"]) is None
    assert not scatter.is_over
    scatter.delivered(second, [b"z", b"w"])
    assert scatter.is_over
    assert {job.slot: job.reply for job in scatter.ended} == {9000: b"x", 8192: b"y", 1: b"z", 2: b"w"}
    assert not scatter.is_misled


def test_moved_slot_is_followed_and_remembered() -> None:
    chart = chart_of(*HALVES)
    scatter = Scatter([Job(5, b"")], chart, "it")

    served(scatter, lambda at, job: b"row" if at == C else error_reply("MOVED 5 c:3"))

    assert scatter.ended[0].reply == b"row"
    assert scatter.is_misled
    node = chart.of(5)
    assert node is not None
    assert node.at == C


def test_slot_that_is_just_moving_is_followed_for_once_and_key_by_key() -> None:
    chart = chart_of(*HALVES)
    keys = [b"k1", b"k2", b"k3"]
    scatter = Scatter([Job(5, command(b"MGET", *keys), [0, 1, 2], keys)], chart, "it")

    def answer(at: At, job: Job) -> Any:
        if len(job.keys) > 1:
            return error_reply("TRYAGAIN Multiple keys request during rehashing of slot")
        if at == A:
            return [b"row1"] if job.keys == [b"k1"] else error_reply("ASK 5 c:3")
        assert job.is_asking
        return [b"row3"] if job.keys == [b"k3"] else [None]

    served(scatter, answer)

    assert {job.tag[0]: job.reply for job in scatter.ended} == {0: [b"row1"], 1: [None], 2: [b"row3"]}
    node = chart.of(5)
    assert node is not None
    assert node.at == A


def test_several_keys_sent_elsewhere_for_once_go_one_by_one() -> None:
    keys, seen = [b"k1", b"k2"], []
    scatter = Scatter([Job(5, command(b"MGET", *keys), [0, 1], keys)], chart_of(*HALVES), "it")

    def answer(at: At, job: Job) -> Any:
        seen.append((at, len(job.keys), job.is_asking))
        return error_reply("ASK 5 c:3") if at == A else [None]

    served(scatter, answer)

    assert seen == [(A, 2, False), (C, 1, True), (C, 1, True)]


def test_nodes_that_point_at_one_another_are_left_after_a_few_turns() -> None:
    seen = []
    scatter = Scatter([Job(5, b"")], chart_of(*HALVES), "it")

    def answer(at: At, job: Job) -> Any:
        seen.append(at)
        return error_reply(f"MOVED 5 {'b:2' if at == A else 'a:1'}")

    served(scatter, answer)

    assert isinstance(scatter.ended[0].error, StoreUnavailable)
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("text", "kind"), [("CLUSTERDOWN Hash slot not served", StoreUnavailable), ("NOPERM no", StoreRefused)]
)
def test_error_reply_is_its_jobs_and_the_shards_only_if_all_are(text: str, kind: type[Exception]) -> None:
    scatter = Scatter([Job(1, b""), Job(2, b"")], chart_of(*HALVES), "it")
    (parcel,) = scatter.parcels()
    assert scatter.delivered(parcel, [error_reply(text), b"row"]) is None
    assert [type(job.error) for job in scatter.ended] == [kind, type(None)]

    scatter = Scatter([Job(1, b""), Job(2, b"")], chart_of(*HALVES), "it")
    (parcel,) = scatter.parcels()
    trouble = scatter.delivered(parcel, [error_reply(text)] * 2)

    assert type(trouble) is kind
    assert "shard a:1" in str(trouble)
    assert trouble.shard == "a:1"


def test_slot_nobody_serves_costs_its_jobs_alone() -> None:
    scatter = Scatter([Job(1, b""), Job(9000, b"")], chart_of(HALVES[0]), "it")

    served(scatter, lambda at, job: b"row")

    assert sorted((job.slot, job.reply, job.error is None) for job in scatter.ended if job.error is None) == [
        (1, b"row", True)
    ]
    assert scatter.is_misled
    assert [job.error.shard for job in scatter.ended if job.error is not None] == ["slot 9000"]


def test_answers_say_which_rows_were_lost_and_why(kit: Kit) -> None:
    asks = [kit.ask(["a", "b", "c"]), kit.ask(["d"], kit.other), kit.ask(["e"])]
    jobs, count = rounds.read_jobs(asks)
    late = StoreTimeout("late")
    for job in jobs:
        if {0, 4} & set(job.tag):
            job.error = late
        else:
            job.reply = [b"row%d" % place for place in job.tag]

    first, second, third = rounds.answers(jobs, asks, count, "it")

    assert isinstance(first, Partial)
    assert isinstance(third, Partial)
    assert (first.rows, second, third.rows) == ([None, b"row1", b"row2"], [b"row3"], [None])
    assert [(error, at.tolist()) for error, at in first.lost] == [(late, [0])]
    assert [(error, at.tolist()) for error, at in third.lost] == [(late, [0])]


def test_where_nobody_answered_the_error_is_raised(kit: Kit) -> None:
    asks = [kit.ask(["a", "b"])]
    jobs, count = rounds.read_jobs(asks)
    for job in jobs:
        job.error = StoreTimeout("late")

    with pytest.raises(StoreTimeout):
        rounds.answers(jobs, asks, count, "it")


def test_reply_of_another_shape_is_no_row(kit: Kit) -> None:
    asks = [kit.ask(["a", "b"])]
    jobs, count = rounds.read_jobs(asks)
    jobs[0].reply, jobs[1].reply = [1], [b"row"]

    (answer,) = rounds.answers(jobs, asks, count, "it")

    assert isinstance(answer, Partial)
    assert [type(error) for error, _ in answer.lost] == [StoreUnavailable]


def test_nodes_left_out_of_two_maps_are_let_go() -> None:
    gone: list[str] = []
    chart = chart_of(*HALVES, gone=gone)

    assert chart.learn([Range(0, SLOTS - 1, C)])
    assert gone == []
    assert not chart.learn([Range(0, SLOTS - 1, C)])

    assert gone == ["b:2"], "the one of the config is kept"
    assert {node.at for node in chart.nodes()} == {A, C}


def test_whom_to_ask_is_whoever_serves_then_the_configs() -> None:
    gone: list[str] = []
    chart = Chart(str, [At("seed", 1)], let_go=gone.append)
    assert chart.whom_to_ask(Random(1)) == [At("seed", 1)]

    chart.learn(HALVES)

    assert sorted(chart.whom_to_ask(Random(1))[:2]) == [A, B]
    assert chart.whom_to_ask(Random(1))[2:] == [At("seed", 1)]


def test_map_is_asked_for_less_often_while_nothing_is_new() -> None:
    pace, now, waits = Pace(Random(1)), 0.0, []
    for _ in range(8):
        begun = now
        pace.ended(now, is_new=False)
        while not pace.may(now):
            now += 0.01
        waits.append(now - begun)

    assert 0.04 < waits[0] < 0.16
    assert all(0.95 < wait < 3.02 for wait in waits[-3:])
    pace.ended(now, is_new=True)
    assert pace.may(now + 0.16)
