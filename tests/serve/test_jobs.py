"""What a job tells is numbered, of bounded size, and heard by all who listen."""

import json

import numpy as np
import pytest

from open4m.generate.changes import Values, Weights
from open4m.generate.drawing import Outcome
from open4m.generate.masks import Masked
from open4m.generate.request import Generate, Inpaint, Probe
from open4m.generate.results import Generation
from open4m.serve.jobs import KEPT_BYTES, KEPT_EVENTS, LEFT_EVENTS, Events, Job, bytes_of, rows_of
from open4m.serve.limits import Refused
from open4m.types import Boxes

REQUEST = Generate(given={"caption": "a ball"}, targets=("depth",), samples=3)


def test_events_are_numbered_and_who_comes_back_gets_what_came_after():
    events = Events()
    for place in (3, 2, 1):
        events.add("queued", {"place": place})
    assert [event.number for event in events.after(0)] == [1, 2, 3]
    assert [json.loads(event.data) for event in events.after(1)] == [{"place": 2}, {"place": 1}]
    assert events.after(3) == []
    assert events.end is None
    events.add("done", {})
    assert events.end == 4
    assert events.after(3)[0].written() == b"id: 4\nevent: done\ndata: {}\n\n"


def test_of_many_events_the_last_are_kept_and_all_others_stay():
    events = Events()
    events.add("started", {})
    for number in range(3 * KEPT_EVENTS):
        events.add("pass", {"pass": number}, many=True)
    found = events.after(0)
    assert len(found) == KEPT_EVENTS + 1
    assert found[0].name == "started"
    assert found[-1].number == 3 * KEPT_EVENTS + 1
    for _ in range(20):
        events.add("pass", {"picture": "a" * (KEPT_BYTES // 4)}, many=True)
    assert sum(len(event.data) for event in events.after(0)) < KEPT_BYTES * 1.01
    for _ in range(30):
        events.add("pass", {"pass": 1}, many=True)
    events.add("done", {})
    left = events.after(0)
    assert [left[0].name, *(event.name for event in left[1:])] == ["started", *["pass"] * LEFT_EVENTS, "done"]
    assert [event.number for event in left[1:]] == [*range(left[-1].number - LEFT_EVENTS, left[-1].number + 1)]


def test_listeners_are_called_for_every_event():
    events, heard = Events(), []
    events.listeners.add(lambda: heard.append(events.after(0)[-1].name))
    events.add("queued", {"place": 1})
    events.add("started", {})
    assert heard == ["queued", "started"]


def test_a_job_without_a_result_says_why():
    job = Job(REQUEST, None)
    with pytest.raises(Refused, match=f"job {job.id} is queued: there is no result") as found:
        job.result()
    assert found.value.status == 409
    job.error = Refused("no memory", 503, "less")
    with pytest.raises(Refused, match="no memory"):
        job.result()
    assert (job.answer().error, job.answer().hint) == ("no memory", "less")
    assert job.answer().targets == ["depth"]


def test_a_probe_has_as_many_rows_as_it_has_values():
    assert rows_of(REQUEST) == 3
    probe = Probe(given={"caption": "a"}, of="caption", sweep=Weights((1.0, 2.0, 3.0, 4.0)), targets=("depth",))
    assert rows_of(probe) == 4


def test_the_memory_of_an_outcome_counts_each_array_once():
    shared = np.zeros((100, 100), dtype=np.float32)
    boxes = Boxes(np.zeros((0, 4)), ())
    results = [Generation(values={"depth": shared}, tokens={}, given={"boxes": boxes}) for _ in range(5)]
    size = bytes_of(Outcome(results, [("depth", "depth", shared)]), REQUEST)
    assert 40_000 < size < 45_000


def test_the_memory_of_what_was_asked_counts_too():
    """A small file may hold a large picture, which a result keeps for its recipe."""
    image, mask = np.zeros((200, 100, 3), dtype=np.uint8), np.ones((200, 100), dtype=bool)
    request = Inpaint(given={"rgb": image, "caption": "a" * 5000}, mask=mask)
    assert 85_000 < Job(request, None).bytes < 87_000
    assert 85_000 < bytes_of(Outcome([], []), request) < 87_000
    part = Generate(given={"rgb": Masked(image, mask)}, targets=("rgb",))
    assert 80_000 < Job(part, None).bytes < 82_000
    probe = Probe(of="depth", sweep=Values((np.ones((50, 50), dtype=np.float32),) * 3), targets=("rgb",))
    assert 10_000 < Job(probe, None).bytes < 33_000
