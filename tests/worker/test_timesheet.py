"""Where a stage's time goes, by a clock that the test sets."""

import pytest

from worker.protocol import Segment, StageTimes
from worker.telemetry.timesheet import Timesheet


def rows(request, first=0, count=1):
    return (Segment(request, first, count, True),)


def step(sheet, request, *, since, start, computed, ended, phase="decode", count=1):
    sheet.launched(phase, rows(request, count=count), since=since, now=start)
    sheet.landed(computed, ended)
    (finished,) = sheet.settle()
    return finished


def parts(step):
    return pytest.approx((step.wait, step.queue, step.compute, step.encode))


def test_the_parts_of_a_step_cover_the_interval_to_the_one_before():
    sheet = Timesheet(0)
    sheet.opened(1, 10.0)
    step(sheet, 1, since=10.0, start=10.0, computed=10.4, ended=10.5)
    second = step(sheet, 1, since=11.0, start=11.1, computed=11.7, ended=11.8)
    assert parts(second) == (0.5, 0.1, 0.6, 0.1)
    assert second.wait + second.queue + second.compute + second.encode == pytest.approx(11.8 - 10.5)


def test_what_arrived_during_the_step_before_waits_in_the_queue_and_makes_no_bubble():
    sheet = Timesheet(0)
    sheet.opened(1, 0.0)
    sheet.opened(2, 0.0)
    step(sheet, 1, since=0.0, start=0.0, computed=3.0, ended=3.5)
    assert parts(step(sheet, 2, since=1.0, start=3.5, computed=4.5, ended=4.5)) == (0.0, 2.5, 1.0, 0.0)


def test_overlapping_steps_share_no_time():
    sheet = Timesheet(0)
    sheet.opened(1, 0.0)
    sheet.launched("decode", rows(1, 0), since=0.0, now=0.0)
    sheet.launched("decode", rows(1, 1), since=0.0, now=0.25)
    assert sheet.in_flight == 2
    sheet.landed(1.0, 1.25)
    sheet.launched("decode", rows(1, 2), since=1.25, now=1.5)
    sheet.landed(2.0, 2.25)
    sheet.landed(3.0, 3.25)
    assert (sheet.in_flight, sheet.unsettled) == (0, 3)
    first, second, third = sheet.settle()
    assert [s.compute for s in (first, second, third)] == [1.0, 0.75, 0.75]
    assert second.started == first.ended
    assert [s.wait for s in (first, second, third)] == [0.0, 0.0, 0.0]


def test_nobody_waits_while_no_request_is_open():
    sheet = Timesheet(0)
    sheet.opened(1, 0.0)
    step(sheet, 1, since=0.0, start=0.0, computed=1.0, ended=1.0)
    sheet.closed(1, 0.0)
    sheet.opened(2, 50.0)
    assert step(sheet, 2, since=51.0, start=51.0, computed=52.0, ended=52.0).wait == 1.0


def test_how_long_the_oldest_step_has_been_computing():
    sheet = Timesheet(0)
    assert sheet.busy_since == 0.0
    sheet.launched("prefill", rows(1), since=1.0, now=2.0)
    sheet.launched("prefill", rows(2), since=1.0, now=3.0)
    assert sheet.busy_since == 2.0
    sheet.landed(4.0, 5.0)
    assert sheet.busy_since == 5.0
    sheet.landed(6.0, 7.0)
    assert sheet.busy_since == 0.0


def test_a_request_is_told_where_its_time_went():
    sheet = Timesheet(3)
    sheet.opened(7, 0.0)
    step(sheet, 7, since=1.0, start=1.5, computed=2.5, ended=3.0, phase="prefill", count=9)
    step(sheet, 7, since=5.0, start=5.25, computed=6.25, ended=6.5)
    step(sheet, 7, since=6.5, start=6.5, computed=7.0, ended=7.25)
    assert sheet.closed(7, 0.125) == StageTimes(
        stage=3,
        prefill_steps=1,
        prefill_seconds=1.0,
        decode_steps=2,
        decode_seconds=1.5,
        queue_seconds=0.75,
        encode_seconds=1.0,
        wait_seconds=3.0,  # 1 before its rows came, 2 between its steps
        hop_seconds=0.375,
    )


def test_a_step_of_a_batch_counts_whole_for_each_member():
    sheet = Timesheet(0)
    for request in (1, 2):
        sheet.opened(request, 0.0)
    sheet.launched("decode", (*rows(1), *rows(2)), since=0.0, now=0.0)
    sheet.landed(1.0, 1.0)
    assert [step.rows for step in sheet.settle()] == [2]
    assert [sheet.closed(request, 0.0).decode_seconds for request in (1, 2)] == [1.0, 1.0]


def test_a_new_epoch_forgets_requests_and_steps_under_way():
    sheet = Timesheet(0)
    sheet.opened(1, 0.0)
    sheet.launched("decode", rows(1), since=0.0, now=0.0)
    sheet.begin()
    assert (sheet.in_flight, sheet.busy_since) == (0, 0.0)
    sheet.opened(1, 5.0)
    assert step(sheet, 1, since=6.0, start=6.0, computed=7.0, ended=7.0).compute == 1.0
    assert sheet.closed(1, 0.0).decode_steps == 1


def test_pieces_of_a_prompt_that_are_here_at_once_wait_for_each_other_only_once():
    sheet = Timesheet(0)
    for request in (1, 2):
        sheet.opened(request, 0.0)
    for first in range(3):
        step(sheet, 1, since=0.0, start=2.0 * first, computed=2.0 * first + 1, ended=2.0 * first + 1, phase="prefill")
        if first < 2:  # in between another one's step
            step(sheet, 2, since=0.0, start=2.0 * first + 1, computed=2.0 * first + 2, ended=2.0 * first + 2)
    told = sheet.closed(1, 0.0)
    assert (told.prefill_seconds, told.queue_seconds, told.wait_seconds) == (3.0, 2.0, 0.0)
    assert [finished.queue for finished in sheet.steps] == [0.0, 1.0, 1.0, 1.0, 1.0]
