"""What every kind of log promises to a bridge, a test a sentence."""

from __future__ import annotations

import pytest
import trio

from trio_events.bridge import Claim, Entry, EventLog, GroupState, LogRefusedError

LEASE = 0.3
LONG = 60.0


def places(claims: list[Claim]) -> list[tuple[int, int]]:
    return [(claim.position, claim.attempt) for claim in claims]


async def test_positions_are_one_list_without_gaps_in_the_order_of_appending(
    log: EventLog,
) -> None:
    async with log.open() as one, log.open() as other:
        assert await one.bounds() == (0, 0)
        assert await one.append("w", 1, [b"a", b"b"], 0) == 2
        assert await other.append("x", 1, [b"c"], 0) == 3
        assert await one.append("w", 3, [b"d"], 3) == 4
        expected = [Entry(1, b"a"), Entry(2, b"b"), Entry(3, b"c"), Entry(4, b"d")]
        assert await one.read(0, 10, 0) == expected
        assert await other.read(0, 10, 0) == expected
        assert await one.bounds() == await other.bounds() == (1, 4)


async def test_a_read_begins_after_a_position_and_has_a_limit(log: EventLog) -> None:
    async with log.open() as session:
        await session.append("w", 1, [b"a", b"b", b"c"], 0)
        assert await session.read(1, 1, 0) == [Entry(2, b"b")]
        assert await session.read(2, 10, 0) == [Entry(3, b"c")]
        assert await session.read(3, 10, 0) == []


async def test_an_event_is_any_bytes(log: EventLog) -> None:
    events = [b"", bytes(range(256)), b"\r\n$0", "\N{SQUID}".encode(), b"x" * 300_000]
    async with log.open() as session:
        await session.append("w", 1, events, 0)
        assert [entry.event for entry in await session.read(0, 10, 0)] == events


async def test_what_a_writer_has_appended_before_is_left_out(log: EventLog) -> None:
    async with log.open() as session:
        assert await session.append("w", 1, [b"a", b"b"], 0) == 2
        for _ in range(2):
            assert await session.append("w", 1, [b"a", b"b"], 0) == 2
        assert await session.append("w", 2, [b"b", b"c"], 0) == 3
        assert await session.append("w", 1, [b"a"], 0) == 3
        assert await session.append("w", 1, [b"a", b"b", b"c", b"d"], 0) == 4
        assert [entry.event for entry in await session.read(0, 10, 0)] == [b"a", b"b", b"c", b"d"]


async def test_writers_have_numbers_of_their_own(log: EventLog) -> None:
    async with log.open() as session:
        await session.append("w", 1, [b"a"], 0)
        await session.append("x", 1, [b"b"], 0)
        await session.append("x", 1, [b"b"], 0)
        assert [entry.event for entry in await session.read(0, 10, 0)] == [b"a", b"b"]


async def test_new_positions_are_above_the_highest_one_that_the_writer_has_seen(
    log: EventLog,
) -> None:
    async with log.open() as session:
        assert await session.append("w", 1, [b"a"], 41) == 42
        assert await session.append("w", 2, [b"b"], 7) == 43
        assert await session.bounds() == (42, 43)


async def test_appending_nothing_changes_nothing(log: EventLog) -> None:
    async with log.open() as session:
        for _ in range(2):
            assert await session.append("w", 1, [], 41) == 0
            assert await session.bounds() == (0, 0)
        assert await session.append("w", 1, [b"a"], 0) == 1


async def test_a_reader_that_waits_gets_what_comes(log: EventLog) -> None:
    async with log.open() as reader, log.open() as writer, trio.open_nursery() as nursery:

        async def append() -> None:
            await trio.sleep(0.05)
            await writer.append("w", 1, [b"a"], 0)

        nursery.start_soon(append)
        with trio.fail_after(10):
            assert await reader.read(0, 10, LONG) == [Entry(1, b"a")]


async def test_a_reader_gets_nothing_when_its_time_is_over(log: EventLog) -> None:
    async with log.open() as session:
        for _ in range(2):
            assert await session.read(0, 10, 0.05) == []


async def test_a_session_can_be_cancelled_while_it_waits(log: EventLog) -> None:
    for _ in range(3):
        async with log.open() as session:
            with trio.move_on_after(0.02) as scope:
                await session.read(0, 10, LONG)
            assert scope.cancelled_caught
    async with log.open() as session:
        assert await session.append("w", 1, [b"a"], 0) == 1


async def test_the_oldest_events_make_room(tiny_log: EventLog) -> None:
    async with tiny_log.open() as session:
        for number in range(1, 1_001, 100):
            await session.append("w", number, [b"x"] * 100, 0)
        first, last = await session.bounds()
        assert last == 1_000
        assert 500 < first <= 991  # Redis trims by whole nodes, of at most 100 entries
        assert (await session.read(0, 1, 0))[0].position == first


async def test_a_claim_is_exclusive_until_its_lease_is_over(log: EventLog) -> None:
    async with log.open() as session:
        await session.append("w", 1, [b"a", b"b", b"c"], 0)
        await session.join("g", "**", 0)
        missed, first = await session.claim("g", "m", 2, LONG, 0)
        assert (missed, first) == (0, [Claim(1, b"a", 1), Claim(2, b"b", 1)])
        assert await session.claim("g", "n", 2, LONG, 0) == (0, [Claim(3, b"c", 1)])
        for _ in range(2):
            assert await session.claim("g", "n", 2, LONG, 0) == (0, [])


async def test_when_a_lease_is_over_another_member_gets_the_event(log: EventLog) -> None:
    async with log.open() as session:
        await session.append("w", 1, [b"a", b"b"], 0)
        await session.join("g", "**", 0)
        await session.claim("g", "m", 2, LEASE, 0)
        for attempt in (2, 3):
            await trio.sleep(LEASE + 0.1)
            _, claims = await session.claim("g", "n", 2, LEASE, 0)
            assert places(claims) == [(1, attempt), (2, attempt)]


async def test_a_member_that_waits_gets_what_comes(log: EventLog) -> None:
    async with log.open() as member, log.open() as writer, trio.open_nursery() as nursery:
        await member.join("g", "**", 0)

        async def append() -> None:
            await trio.sleep(0.05)
            await writer.append("w", 1, [b"a"], 0)

        nursery.start_soon(append)
        with trio.fail_after(10):
            assert await member.claim("g", "m", 10, LONG, LONG) == (0, [Claim(1, b"a", 1)])
        assert await member.claim("g", "m", 10, LONG, 0.05) == (0, [])


async def test_finishing_ends_a_claim(log: EventLog) -> None:
    async with log.open() as session:
        await session.append("w", 1, [b"a", b"b"], 0)
        await session.join("g", "**", 0)
        await session.claim("g", "m", 2, LEASE, 0)
        for _ in range(2):
            await session.finish("g", "m", [1], [], LEASE)
        await trio.sleep(LEASE + 0.1)
        _, claims = await session.claim("g", "n", 2, LEASE, 0)
        assert places(claims) == [(2, 2)]


async def test_finishing_renews_the_lease_of_what_is_running(log: EventLog) -> None:
    async with log.open() as session:
        await session.append("w", 1, [b"a"], 0)
        await session.join("g", "**", 0)
        await session.claim("g", "m", 1, LEASE, 0)
        for _ in range(4):
            await trio.sleep(LEASE / 2)
            await session.finish("g", "m", [], [1], LEASE)
        assert await session.claim("g", "n", 1, LEASE, 0) == (0, [])


async def test_attempts_count_deliveries_and_not_renewals(log: EventLog) -> None:
    async with log.open() as session:
        await session.append("w", 1, [b"a"], 0)
        await session.join("g", "**", 0)
        await session.claim("g", "m", 1, LEASE, 0)
        await session.finish("g", "m", [], [1], LEASE)
        await trio.sleep(LEASE + 0.1)
        _, claims = await session.claim("g", "m", 1, LEASE, 0)
        assert places(claims) == [(1, 2)]


async def test_groups_are_independent(log: EventLog) -> None:
    async with log.open() as session:
        await session.append("w", 1, [b"a", b"b"], 0)
        await session.join("g", "**", 0)
        await session.join("h", "**", 1)
        assert places((await session.claim("g", "m", 9, LONG, 0))[1]) == [(1, 1), (2, 1)]
        assert places((await session.claim("h", "m", 9, LONG, 0))[1]) == [(2, 1)]


async def test_a_group_keeps_its_position_when_it_is_joined_again(log: EventLog) -> None:
    async with log.open() as session:
        await session.append("w", 1, [b"a", b"b"], 0)
        await session.join("g", "**", 1)
        await session.join("g", "**", 0)
        assert places((await session.claim("g", "m", 9, LONG, 0))[1]) == [(2, 1)]


async def test_a_group_has_its_patterns_for_life(log: EventLog) -> None:
    async with log.open() as session:
        await session.join("g", "orders.**", 0)
    for _ in range(2):
        with pytest.raises(LogRefusedError, match="orders"):
            async with log.open() as session:
                await session.join("g", "mails", 0)
    async with log.open() as session:
        await session.join("g", "orders.**", 0)


async def test_what_made_room_before_the_group_got_it_is_counted(tiny_log: EventLog) -> None:
    async with tiny_log.open() as session:
        await session.join("g", "**", 0)
        await session.append("w", 1, [b"x"] * 1_000, 0)
        first, _ = await session.bounds()
        missed, claims = await session.claim("g", "m", 2, LONG, 0)
        assert missed == first - 1
        assert places(claims) == [(first, 1), (first + 1, 1)]


async def test_a_claim_whose_event_made_room_counts_only_when_its_lease_is_over(
    tiny_log: EventLog,
) -> None:
    async with tiny_log.open() as session:
        await session.join("g", "**", 0)
        await session.append("w", 1, [b"x"] * 3, 0)
        await session.claim("g", "m", 3, LEASE, 0)
        await session.append("w", 4, [b"x"] * 1_000, 0)
        await session.finish("g", "m", [1], [3], LONG)  # alive with it, though it has gone
        first, _ = await session.bounds()
        assert first > 3
        await trio.sleep(LEASE + 0.1)
        missed, claims = await session.claim("g", "n", 1, LEASE, 0)
        # The second one was nobody's; the third one is still m's.
        assert missed + len(claims) == 1 + (first - 4) + 1
        assert places(claims) == [(first, 1)]
        missed, claims = await session.claim("g", "n", 1, LEASE, 0)
        assert (missed, places(claims)) == (0, [(first + 1, 1)])


async def test_a_wait_for_claims_ends_when_a_lease_does(log: EventLog) -> None:
    async with log.open() as session:
        await session.append("w", 1, [b"a"], 0)
        await session.join("g", "**", 0)
        await session.claim("g", "m", 1, LEASE, 0)
        with trio.fail_after(10):
            while not (claims := (await session.claim("g", "n", 1, LEASE, LEASE / 2))[1]):
                pass
        assert places(claims) == [(1, 2)]


async def test_a_log_knows_its_groups(log: EventLog) -> None:
    async with log.open() as session:
        assert await session.groups() == []
        await session.append("w", 1, [b"a", b"b", b"c"], 0)
        await session.join("mailer", "orders", 0)
        await session.join("audit", "**", 1)
        await session.claim("mailer", "m", 2, LONG, 0)
        await session.finish("mailer", "m", [1], [], LONG)
        for _ in range(2):
            assert await session.groups() == [
                GroupState("audit", "**", 1, 0),
                GroupState("mailer", "orders", 2, 1),
            ]
