"""What is told of passes: how far they are, what is known, pictures of it; not too often, but of each target's last."""

import base64
import io
import json
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from serving import photo

from open4m.generate.drawing import pictures
from open4m.generate.request import Request
from open4m.generate.together import together
from open4m.serve import passes
from open4m.serve.jobs import Job
from open4m.serve.passes import MOST_SHOWN, Teller, data_url


class Clock:
    """Time that passes by a step whenever it is asked for."""

    def __init__(self, step):
        self.now, self.step = 0.0, step

    def __call__(self):
        self.now += self.step
        return self.now


def told(model, documents, frames="png", step=1.0):
    """The events of passes of each request, made in one batch."""
    jobs = [Job(Request.from_json(document), None, frames) for document in documents]
    teller = Teller(jobs, Clock(step))
    with mock.patch.object(passes, "SHARE", 10):
        together(model, [job.request for job in jobs], teller)
    teller.close()
    return [[json.loads(event.data) for event in job.events.after(0)] for job in jobs]


def opened(url):
    head, _, data = url.partition(",")
    return head, Image.open(io.BytesIO(base64.b64decode(data)))


def test_every_pass_is_told_with_what_is_known_and_pictured(model):
    document = photo(0, ("depth", "semseg", "caption"), samples=2, options={"depth": {"steps": 4, "scheme": "roar"}})
    (events,) = told(model, [document])
    depth = [event for event in events if event["target"] == "depth"]
    assert [(event["pass"], event["passes"], event["number"], event["targets"]) for event in depth] == [
        (n, 4, 1, 3) for n in (1, 2, 3, 4)
    ]
    counts = [[sample["known"].count("1") for sample in event["samples"]] for event in depth]
    assert [len(sample["known"]) for sample in depth[0]["samples"]] == [16, 16]
    assert counts == sorted(counts)
    assert counts[-1] == [16, 16]
    assert [sample["sample"] for sample in depth[0]["samples"]] == [0, 1]
    results = Request.from_json(document).run(model).results
    drawn = pictures(model, "depth", [result["depth"] for result in results], size=96)[0]
    for sample, expected in zip(depth[-1]["samples"], drawn, strict=True):
        head, picture = opened(sample["picture"])
        assert head == "data:image/png;base64"
        assert np.array_equal(np.asarray(picture), np.asarray(expected))
    words = [event["samples"][0] for event in events if event["target"] == "caption"]
    assert words[-1]["text"] == results[0]["caption"]
    assert {sample["known"] for sample in words} == {""}
    assert {sample["picture"] for sample in words} == {""}


def test_each_job_of_a_batch_is_told_of_its_own_samples(model):
    first, second = told(model, [photo(seed, ("depth",), samples=5) for seed in (1, 2)])
    alone = [told(model, [photo(seed, ("depth",), samples=5)])[0] for seed in (1, 2)]
    assert [first, second] == alone
    assert len(first[0]["samples"]) == MOST_SHOWN


def test_who_asks_for_no_pictures_gets_none(model):
    (events,) = told(model, [photo(0, ("depth",))], frames="none")
    assert {len(event["samples"]) for event in events} == {0}
    assert events[-1]["pass"] == events[-1]["passes"]


def test_passes_that_follow_each_other_quickly_share_an_event_but_for_the_last_of_each_target(model):
    document = photo(0, ("depth", "semseg"), options={"steps": 7, "temperature": 1.0})
    (events,) = told(model, [document], step=0.001)
    seen = [(event["target"], event["pass"]) for event in events]
    assert seen[0] == ("depth", 1)
    assert ("depth", 7) in seen
    assert seen[-1] == ("semseg", 7)
    assert len(seen) < 14


def test_pictures_take_no_more_than_a_part_of_the_time(model, monkeypatch):
    """A clock that only pictures move: without a bound each pass would have one."""
    clock = Clock(0.0)
    clock.now = 1.0

    def slow(*_):
        clock.now += 100.0
        return []

    monkeypatch.setattr(passes, "samples", slow)
    job = Job(Request.from_json(photo(0, ("depth",), options={"steps": 16, "temperature": 1.0})), None, "png")
    teller = Teller([job], clock)
    together(model, [job.request], teller)
    teller.close()
    assert len(job.events.after(0)) == 2  # the first and the last


@pytest.mark.parametrize("form", ["png", "webp"])
def test_pictures_are_addresses_that_hold_them(form):
    picture = Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3))
    head, found = opened(data_url(picture, form))
    assert head == f"data:image/{form};base64"
    assert found.size == (16, 16)
    assert found.format == form.upper()
