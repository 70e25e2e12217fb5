"""Lines that repeat: refusals in the audit log, warnings in the log; and work that waits in lanes of its own."""

import asyncio
import logging
import threading

import pytest
from fastapi import HTTPException

from lwd.console.audit import AuditLog
from lwd.console.heavy import HeavyWork
from lwd.console.lanes import Lane
from lwd.console.log_limit import LogLimit
from lwd.console.refusals import Refusals


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_refusals_are_written_once_then_counted_and_strangers_names_fill_nothing(tmp_path):
    clock = Clock()
    audit = AuditLog(tmp_path / "console" / "audit.jsonl")
    refusals = Refusals(audit, clock=clock)

    def rows() -> list[tuple[str, str, str, int]]:
        return [
            (row["who"], row["what"], row.get("robot_id", ""), row.get("count", 0))
            for row in reversed(audit.tail(10_000))
        ]

    async def note() -> None:
        for number in range(50):
            await refusals.note("ada", "take", "a viewer only looks", robot_id=f"robot-{number}")
        await refusals.note("ada", "release", "a viewer only looks", robot_id="robot-0")
        assert rows() == [("ada", "take", "robot-0", 0), ("ada", "release", "robot-0", 0)]
        clock.now_s += 10
        refusals.flush(refusals._due())
        assert rows()[2:] == [("ada", "take", "robot-49", 49)]
        for number in range(2000):
            await refusals.note(f"name-{number}", "login refused", "name or password is wrong")

    asyncio.run(note())
    assert len(rows()) == 3 + 256 + 1
    refusals.close()
    assert rows()[-1] == ("(others)", "login refused", "", 2000 - 256 - 1)
    audit.close()


def test_a_line_of_the_log_that_repeats_is_counted():
    clock = Clock()
    limit = LogLimit(clock=clock)

    def passes(line: int) -> str:
        record = logging.LogRecord("uvicorn.error", logging.WARNING, "file.py", line, "no %s", ("HTTP",), None)
        return record.getMessage() if limit.filter(record) else ""

    assert [passes(1) for _ in range(100)] == ["no HTTP"] * 5 + [""] * 95
    assert passes(2) == "no HTTP"
    clock.now_s += 10
    assert [passes(1), passes(1)] == ["no HTTP (95 more such lines were left out)", "no HTTP"]


def test_work_in_a_lane_is_bounded_by_person_and_counts_until_it_is_over():
    over = threading.Event()

    async def crowd() -> None:
        lane = Lane("reads", threads=2, everybody=5, each=3)
        working = [asyncio.create_task(lane.run("ada", over.wait, 30)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(HTTPException, match="too many reads of yours are under way"):
            await lane.run("ada", over.wait)
        # Who leaves does not end what runs.
        working[0].cancel()
        await asyncio.sleep(0.05)
        with pytest.raises(HTTPException, match="of yours"):
            await lane.run("ada", over.wait)
        others = [asyncio.create_task(lane.run("bob", over.wait, 30)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(HTTPException, match="of all users"):
            await lane.run("carol", over.wait)
        over.set()
        assert await asyncio.gather(*working[1:], *others) == [True] * 4
        while lane._quota._of:
            await asyncio.sleep(0.01)
        assert await lane.run("ada", max, 1, 2) == 2
        lane.close()

    asyncio.run(crowd())


def test_heavy_work_is_done_once_for_all_who_ask_for_it():
    async def crowd() -> None:
        heavy = HeavyWork()
        try:
            # A module of the standard library that prints what it is, at the lowest priority.
            same = await asyncio.gather(*(heavy.output("ada", "platform") for _ in range(6)))
            assert same[0]
            assert len(set(same)) == 1
            found = await asyncio.gather(
                *(heavy.output("ada", "platform", str(number)) for number in range(4)), return_exceptions=True
            )
            assert [type(each) for each in found] == [bytes, bytes, HTTPException, HTTPException]
        finally:
            await heavy.close()

    asyncio.run(crowd())
