"""core/train/pace.py: how far it is and how long the rest takes, by a clock of the test's own."""

from __future__ import annotations

import pytest

from echoedge.core.train.pace import Pace, in_words


@pytest.mark.parametrize(("seconds", "said"), [(7.4, "7 s"), (99, "99 s"), (150, "2 min"), (5990, "100 min"), (12240, "3.4 h")])
def test_durations(seconds: float, said: str) -> None:
    assert in_words(seconds) == said


def test_what_was_there_before_is_no_pace() -> None:
    """Of 100 steps 60 were taken by an earlier run; each takes 2 s."""
    moment, said = [0.0], list[str]()
    told = Pace("steps", said.append, lambda: moment[0])
    for done in range(61, 101):
        moment[0] += 2.0
        told(done, 100)
    assert said[0] == "   65 of 100 steps, 70 s left" and said[-1] == "   100 of 100 steps, in 80 s"
    assert len(said) == 8


def test_what_the_first_step_waited_for_is_no_pace() -> None:
    """Five minutes of a compiler, then a second a step."""
    moment, said = [0.0], list[str]()
    told = Pace("steps", said.append, lambda: moment[0])
    for done in range(1, 601):
        moment[0] += 300.0 if done == 1 else 1.0
        told(done, 600)
    assert said[:2] == ["   1 of 600 steps", "   31 of 600 steps, 9 min left"] and said[-1] == "   600 of 600 steps, in 15 min"


def test_a_line_a_minute_where_steps_are_long() -> None:
    moment, said = [0.0], list[str]()
    told = Pace("lessons", said.append, lambda: moment[0])
    for done in range(1, 5):
        moment[0] += 40.0
        told(done, 1000)
    assert said == ["   2 of 1,000 lessons, 11.1 h left", "   4 of 1,000 lessons, 11.1 h left"]
