"""The thread that runs the model: jobs wait, are put together, stopped, bounded and forgotten."""

import base64
import threading
import time

import numpy as np
import pytest
import torch
from serving import LONG, LONGS, TEXT, photo, wait, working

from open4m.generate.request import Request
from open4m.modalities.codecs import encode_png
from open4m.serve import worker as module
from open4m.serve.limits import Refused
from open4m.types import Open4MError


def submit(worker, document, **how):
    return worker.submit(worker.checked(document), **how)


def tokens(job):
    return [{key: ids.tolist() for key, ids in result.tokens.items()} for result in job.outcome.results]


def offline(model, document):
    results = Request.from_json(document).run(model).results
    return [{key: ids.tolist() for key, ids in result.tokens.items()} for result in results]


class Both:
    """Jobs that are cancelled together."""

    def __init__(self, worker):
        self.jobs = [submit(worker, document) for document in LONGS]
        wait(lambda: all(job.state == "running" for job in self.jobs))

    def cancel(self, worker):
        for job in self.jobs:
            worker.cancel(job)


@pytest.fixture
def busy(model):
    """A worker that is at jobs which do not end by themselves, one in each lane."""
    with working(model) as worker:
        yield worker, Both(worker)


def test_a_job_has_the_result_that_its_request_has_offline(model):
    with working(model) as worker:
        jobs = [submit(worker, photo(seed, samples=2)) for seed in range(3)]
        wait(lambda: all(job.is_over for job in jobs))
        assert [tokens(job) for job in jobs] == [offline(model, photo(seed, samples=2)) for seed in range(3)]
        assert [job.state for job in jobs] == ["done"] * 3
        names = [event.name for event in jobs[0].events.after(0)]
        assert [*dict.fromkeys(names)] == ["queued", "started", "pass", "done"]


def test_what_waits_together_is_made_together_each_with_its_own_result(busy, model):
    worker, first = busy
    alike = [photo(seed, ("depth",)) for seed in range(4)]
    other = {**TEXT, "seed": 9}
    jobs = [submit(worker, document) for document in (alike[0], other, *alike[1:])]
    assert [job.place for job in jobs] == [1, 2, 3, 4, 5]
    first.cancel(worker)
    wait(lambda: all(job.is_over for job in jobs))
    together = [next(e.data for e in job.events.after(0) if e.name == "started") for job in jobs]
    assert worker.steady
    assert together == [f'{{"together": {n}}}' for n in (4, 1, 4, 4, 4)]
    for job, document in zip(jobs, [alike[0], other, *alike[1:]], strict=True):
        assert tokens(job) == offline(model, document)


def test_a_batch_holds_no_more_rows_than_the_engine_makes_at_once(busy):
    worker, first = busy
    jobs = [submit(worker, photo(seed, ("depth",), samples=12)) for seed in range(3)]
    first.cancel(worker)
    wait(lambda: all(job.is_over for job in jobs))
    together = [next(e.data for e in job.events.after(0) if e.name == "started") for job in jobs]
    assert together == ['{"together": 2}'] * 2 + ['{"together": 1}']


def test_a_waiting_job_that_is_cancelled_never_runs_and_the_others_move_up(busy):
    worker, _ = busy
    one, two = (submit(worker, TEXT) for _ in range(2))
    worker.cancel(one)
    assert (one.state, two.place) == ("cancelled", 1)
    with pytest.raises(Refused, match="was cancelled") as found:
        one.result()
    assert found.value.status == 409
    assert [event.name for event in one.events.after(0)] == ["queued", "cancelled"]
    assert one.request is None


def test_a_running_job_is_stopped_between_two_passes(busy):
    worker, both = busy
    job = both.jobs[0]
    begin = time.monotonic()
    worker.cancel(job)
    wait(lambda: job.is_over)
    assert time.monotonic() - begin < 2
    assert job.state == "cancelled"
    following = submit(worker, TEXT)
    wait(lambda: following.state == "done")


def test_of_jobs_that_are_made_together_one_that_is_cancelled_costs_the_others_nothing(busy, model):
    worker, first = busy
    document = {**TEXT, "options": {"steps": 6}}
    jobs = [submit(worker, {**document, "seed": seed}) for seed in range(3)]
    first.cancel(worker)
    wait(lambda: jobs[1].state != "queued")
    worker.cancel(jobs[1])
    wait(lambda: all(job.is_over for job in jobs))
    for seed in (0, 2):
        assert tokens(jobs[seed]) == offline(model, {**document, "seed": seed})


def test_of_jobs_that_are_made_together_one_that_is_cancelled_does_not_wait_for_the_others(busy):
    """Its last event is told at once, is told once, and nothing comes after it."""
    worker, first = busy
    document = {**TEXT, "options": {"steps": 10_000}, "samples": 10}
    jobs = [submit(worker, {**document, "seed": seed}) for seed in range(3)]
    first.cancel(worker)
    wait(lambda: jobs[0].state == "running")
    worker.cancel(jobs[1])
    wait(lambda: jobs[1].is_over)
    assert [jobs[0].state, jobs[2].state] == ["running"] * 2
    assert jobs[1].events.end is not None
    worker.cancel(jobs[1])  # forgotten
    with pytest.raises(Refused):
        worker.find(jobs[1].id)
    for job in (jobs[0], jobs[2]):
        worker.cancel(job)
    wait(lambda: worker.is_idle)
    assert [[event.name for event in job.events.after(0)].count("cancelled") for job in jobs] == [1] * 3
    assert jobs[1].events.after(0)[-1].name == "cancelled"
    assert worker.status()["cancelled"] == len(first.jobs) + 3


def test_a_job_that_takes_too_long_fails(model):
    with working(model, seconds=0.2) as worker:
        job = submit(worker, LONG)
        wait(lambda: job.is_over)
        assert job.state == "failed"
        assert job.error.status == 504
        assert "0.2 seconds" in str(job.error)


def test_what_the_model_cannot_do_fails_with_what_it_can(model):
    with working(model) as worker:
        job = submit(worker, {**TEXT, "given": {"caption": {"text": "a red cube " * 9}}})
        wait(lambda: job.is_over)
        assert (job.state, job.error.status) == ("failed", 400)
        assert "at most 8" in str(job.error)


def test_a_defect_ends_a_job_and_not_the_service(model, monkeypatch, caplog):
    def broken(*_):
        raise ZeroDivisionError("secret")

    with working(model) as worker:
        with monkeypatch.context() as patch:
            patch.setattr(module, "together", broken)
            job = submit(worker, TEXT)
            wait(lambda: job.is_over)
        assert job.error.status == 500
        assert "secret" not in str(job.error) + job.error.hint
        assert "secret" in caplog.text
        following = submit(worker, TEXT)
        wait(lambda: following.is_over)
        assert following.state == "done"


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_a_request_for_which_memory_is_lacking_is_no_defect(model, monkeypatch, error, caplog):
    def large(*_):
        raise error("tried to allocate 80 GiB")

    with working(model) as worker:
        monkeypatch.setattr(module, "together", large)
        job = submit(worker, TEXT)
        wait(lambda: job.is_over)
        assert (job.state, job.error.status, job.error.retry_after) == ("failed", 503, 5)
        assert not caplog.text


@pytest.mark.parametrize(
    ("change", "message", "status"),
    [
        ({"samples": 1001}, "1001 samples", 413),
        ({"samples": 10**30}, "samples", 413),
        ({"avoid": ["a"] * 5000}, "5000 texts to avoid", 413),  # one pass of all of them could not be stopped
        ({"avoid": ["a"] * 9, "conditions": {f"c{n}": {"caption": {"text": "b"}} for n in range(8)}}, "17", 413),
        ({"model": "other"}, "this service has the model", 400),
        ({"fingerprint": "0" * 16}, "made this", 400),
        (
            {"verb": "probe", "of": "caption", "sweep": {"weights": [1.0] * 17}, "seed": 0},
            "17 results",
            413,
        ),
    ],
)
def test_what_the_service_does_not_take_is_refused_at_once(model, change, message, status):
    with working(model, samples=16) as worker, pytest.raises(Refused, match=message) as found:
        worker.checked({**TEXT, **change})
    assert found.value.status == status


def test_a_request_for_these_very_weights_is_taken(model):
    with working(model) as worker:
        job = submit(worker, {**TEXT, "fingerprint": worker.fingerprint(), "model": model.name})
        wait(lambda: job.state == "done")


def test_a_full_queue_says_when_to_come_back(model):
    with working(model, queue=2) as worker:
        Both(worker)
        for _ in range(2):
            submit(worker, TEXT)
        with pytest.raises(Refused, match="2 jobs are waiting") as found:
            submit(worker, TEXT)
        assert found.value.status == 503
        assert 1 <= found.value.retry_after <= 60
        assert worker.status()["refused"] == 1


def test_the_bytes_of_what_waits_are_bounded_but_one_request_is_always_taken(model):
    """Those that they need in memory: a picture of one color is a small file."""
    gray = {"base64": base64.b64encode(encode_png(np.zeros((100, 100, 3), dtype=np.uint8))).decode()}
    assert len(gray["base64"]) < 1000
    with working(model, queue_bytes=29_000) as worker:
        Both(worker)
        submit(worker, {**photo(), "given": {"rgb": gray}})
        with pytest.raises(Refused, match="waiting"):
            submit(worker, TEXT)
        assert worker.status()["refused"] == 1


def test_results_are_forgotten_by_number_bytes_and_age(model):
    with working(model, kept=2) as worker:
        jobs = [submit(worker, {**TEXT, "seed": seed}) for seed in range(4)]
        wait(lambda: all(job.is_over for job in jobs))
        assert worker.find(jobs[3].id) is jobs[3]
        with pytest.raises(Refused, match="any more") as found:
            worker.find(jobs[1].id)
        assert found.value.status == 404
        worker.cancel(jobs[3])  # one that is over is forgotten
        with pytest.raises(Refused):
            worker.find(jobs[3].id)
    with working(model, kept_bytes=1) as worker:
        jobs = [submit(worker, {**TEXT, "seed": seed}) for seed in range(3)]
        wait(lambda: all(job.is_over for job in jobs))
        assert worker.status()["kept"] == 1
    with working(model, kept_seconds=0.05) as worker:
        job = submit(worker, TEXT)
        wait(lambda: job.is_over)
        time.sleep(0.06)
        assert worker.status()["kept"] == 0


def test_jobs_without_a_result_take_the_place_of_none_that_has(model):
    """Who moves a slider cancels one job after another, and comes back to an earlier picture."""
    with working(model, kept=2) as worker:
        job = submit(worker, TEXT)
        wait(lambda: job.is_over)
        Both(worker)
        others = [submit(worker, {**TEXT, "seed": seed}) for seed in range(5)]
        for other in others:
            worker.cancel(other)
        assert worker.find(job.id).result() is job.outcome
        assert worker.find(others[4].id) is others[4]
        with pytest.raises(Refused, match="any more"):
            worker.find(others[2].id)
        assert worker.status()["kept"] == 1


def test_a_worker_that_is_drained_finishes_what_it_has_and_takes_no_more(model):
    with working(model) as worker:
        jobs = [submit(worker, photo(seed)) for seed in range(3)]
        worker.drain()
        with pytest.raises(Refused, match="being stopped") as found:
            submit(worker, TEXT)
        assert found.value.status == 503
        wait(lambda: worker.is_idle)
        wait(lambda: all(job.state == "done" for job in jobs))
        assert not worker.is_collected
        for job in jobs:
            job.collected = True
        assert worker.is_collected


def test_users_who_come_at_once_stay_in_one_batch(model, monkeypatch):
    """Each asks again as soon as it is answered; the worker waits a moment for all of them, a longer one here."""
    monkeypatch.setattr(module, "GATHER_SHARE", 100.0)
    monkeypatch.setattr(module, "GATHER_SECONDS", 3.0)
    with working(model) as worker:
        sizes, kinds = [], photo(0, ("depth",), options={"steps": 8}, samples=4)

        def user(seed):
            for n in range(6):
                job = submit(worker, {**kinds, "seed": 100 * seed + n})
                wait(lambda job=job: job.is_over)
                sizes.append(next(e.data for e in job.events.after(0) if e.name == "started"))

        threads = [threading.Thread(target=user, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(sizes) == 24
        assert np.mean([size == '{"together": 4}' for size in sizes]) > 0.6


def test_those_whose_requests_are_being_read_are_waited_for_but_not_long(model, monkeypatch):
    with working(model) as worker:
        with worker.coming():
            first = submit(worker, TEXT)
            time.sleep(0.02)
            assert first.state == "queued"
            second = submit(worker, {**TEXT, "seed": 4})
        wait(lambda: second.is_over)
        started = [next(e.data for e in job.events.after(0) if e.name == "started") for job in (first, second)]
        assert started == ['{"together": 2}'] * 2
        with worker.coming():
            alone = submit(worker, TEXT)
            wait(lambda: alone.is_over)
        monkeypatch.setattr(module, "COMING_SECONDS", 15.0)
        another = submit(worker, TEXT)
        wait(lambda: another.is_over, 10)  # nothing is being read


def test_who_does_not_come_back_is_not_waited_for_long(model, monkeypatch):
    monkeypatch.setattr(module, "GATHER_SHARE", 10.0)
    monkeypatch.setattr(module, "GATHER_SECONDS", 0.1)
    with working(model) as worker:
        both = Both(worker)
        jobs = [submit(worker, {**TEXT, "seed": seed}) for seed in range(3)]
        both.cancel(worker)
        wait(lambda: all(job.is_over for job in jobs))
        job, begin = submit(worker, TEXT), time.monotonic()
        wait(lambda: job.is_over)
        assert time.monotonic() - begin < 2
        assert worker._expected.keys() <= {job.kind}


def test_without_batches_jobs_are_made_one_by_one(model):
    with working(model, batch=False) as worker:
        job = submit(worker, TEXT)
        assert job.kind is None
        wait(lambda: job.is_over)


def test_what_no_model_could_do_is_refused(model):
    with working(model) as worker, pytest.raises(Open4MError, match="unknown modality"):
        worker.checked({**TEXT, "targets": ["dept"]})


def test_a_short_job_does_not_wait_for_a_long_one_of_another_kind(model):
    with working(model) as worker:
        long = submit(worker, LONG)
        wait(lambda: long.state == "running")
        short = submit(worker, photo(3))
        wait(lambda: short.is_over)
        assert long.state == "running"
        assert tokens(short) == offline(model, photo(3))


def test_jobs_of_the_kind_that_is_being_made_wait_for_its_next_batch(model):
    with working(model) as worker:
        first = submit(worker, LONG)
        wait(lambda: first.state == "running")
        others = [submit(worker, {**LONG, "seed": seed}) for seed in (4, 5)]
        time.sleep(0.05)
        assert [job.state for job in others] == ["queued"] * 2
        worker.cancel(first)
        wait(lambda: others[0].state == "running")
        assert others[1].state == "queued"


def test_those_who_take_turns_go_on_in_the_order_in_which_they_asked():
    turns, seen = module.Turns(), []

    def lane(name):
        turns.take()
        for n in range(3):
            seen.append((name, n))
            time.sleep(0.01)
            turns.pass_on()
        turns.give()

    turns.take()
    threads = []
    for name in "abc":
        threads.append(threading.Thread(target=lane, args=(name,)))
        threads[-1].start()
        wait(lambda: turns._asked == len(threads) + 1)
    turns.pass_on()  # all others first
    assert seen[:3] == [("a", 0), ("b", 0), ("c", 0)]
    turns.give()
    for thread in threads:
        thread.join()
    assert seen == [(name, n) for n in range(3) for name in "abc"]
