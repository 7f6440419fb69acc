"""How a run's payloads travel to its stage."""

import time

import pytest

from app.running import in_glances

STEPS = [{"kind": "step", "index": i} for i in range(5)]
RUN = [{"kind": "start"}, *STEPS, {"kind": "end"}]


def opened(sent: list[dict]) -> list[dict]:
    return [one for payload in sent for one in (payload["payloads"] if payload["kind"] == "many" else [payload])]


@pytest.mark.parametrize("seconds", [0, 0.005, 1000])
def test_nothing_is_lost_and_the_order_stays(seconds):
    assert opened(in_glances(RUN, seconds)) == RUN


def test_slow_steps_travel_alone():
    assert list(in_glances(RUN, 0)) == RUN


def test_the_head_and_the_first_step_never_wait_and_fast_steps_come_with_the_end():
    head, first, rest = in_glances(RUN, 1000)
    assert head == RUN[0] and first == RUN[1]
    assert rest == {"kind": "many", "payloads": RUN[2:]}


def test_a_step_waits_only_for_the_next_one():
    def steps():
        yield STEPS[0]
        yield STEPS[1]
        time.sleep(0.03)
        yield STEPS[2]
        yield STEPS[3]

    sent = in_glances(steps(), 0.02)
    assert next(sent) == STEPS[0]
    assert next(sent)["payloads"] == STEPS[1:3]
