"""The threads that run the model, and the jobs that wait for them. Jobs of one kind are generated in one batch."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from open4m.generate.pipeline import BATCH_SIZE, FourM
from open4m.generate.request_base import Request
from open4m.generate.results import Snapshot
from open4m.generate.together import kind, together
from open4m.serve.jobs import ENDS, Job, bytes_of, rows_of
from open4m.serve.limits import Limits, Refused, too_large
from open4m.serve.passes import Teller
from open4m.types import Open4MError, shown

log = logging.getLogger("open4m")

GATHER_SHARE, GATHER_SECONDS = 0.05, 0.25
"""How long the worker waits for those it has just answered to come back, as a part of the last batch's time, and at
most: users who come at once stay in one batch."""

COMING_SECONDS = 0.1
"""How long a job waits at most for requests that are just being read, to be made with them."""

LANES = 2
"""Batches of unlike jobs that are made at a time, in turns, a pass of each: a short job does not wait for a long one.
With more of them, jobs of one length would all end late."""

ABOUT_A_JOB = 5.0
"""Seconds that a job is taken to need before one is done."""

AHEAD = 60
"""The most seconds that a client is told to wait."""


class _Stopped(Exception):
    """Nobody wants what is being made."""


class Turns:
    """Lets one thread at a time go on, in the order in which they asked."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._asked = self._given = 0

    def take(self) -> None:
        """Wait for one's turn."""
        with self._condition:
            mine = self._asked
            self._asked += 1
            self._condition.wait_for(lambda: self._given == mine)

    def give(self) -> None:
        """End one's turn."""
        with self._condition:
            self._given += 1
            self._condition.notify_all()

    def pass_on(self) -> None:
        """Let all others go first who wait."""
        with self._condition:
            if self._asked == self._given + 1:
                return
        self.give()
        self.take()


class Worker:
    """Runs jobs, one batch after another and unlike ones in turns; all methods may be called from any thread.

    ``batch``: whether jobs are put together where each keeps the bits of its own result.
    """

    def __init__(self, model: FourM, limits: Limits, batch: bool = True):
        self.model, self.limits = model, limits
        self.steady = batch and model.engine.steady
        self.counts: Counter[str] = Counter()
        self.is_ready = self.is_draining = False
        self._condition = threading.Condition()
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._known: dict[str, Job] = {}
        self._kept: OrderedDict[str, tuple[Job, int]] = OrderedDict()  # those that have a result, and their bytes
        self._failed: OrderedDict[str, tuple[Job, int]] = OrderedDict()  # those that are over without one
        self._ends = False
        self._seconds = ABOUT_A_JOB  # of a job, on average
        self._expected: dict[str, tuple[int, float]] = {}  # by kind, how many come back, and until when
        self._coming = 0
        self._fingerprints: dict[bool, str] = {}
        self._turns = Turns()
        lanes = [self._first_lane, *[self._lane] * (LANES - 1)]
        self._threads = [threading.Thread(target=lane, name="open4m model", daemon=True) for lane in lanes]

    # ---- for those who ask
    def start(self) -> None:
        """Begin to work; before the first job, ready what it would wait for."""
        self._threads[0].start()

    @property
    def is_alive(self) -> bool:
        """Whether jobs are made."""
        return all(thread.is_alive() for thread in (self._threads if self.is_ready else self._threads[:1]))

    def checked(self, document: Any) -> Request:
        """The request of a JSON document. Raises :class:`Open4MError` for what no model could do, what is more than is
        allowed, and what is for another model."""
        count = document.get("samples") if isinstance(document, dict) else None
        if isinstance(count, int) and count > self.limits.samples:  # before any is checked
            raise too_large(f"{shown(count)} samples", f"{self.limits.samples} results of one request")
        request = Request.from_json(document)
        if (count := rows_of(request)) > self.limits.samples:
            raise too_large(f"{count} results", f"{self.limits.samples} of one request")
        if (
            count := len(request.avoid) + len(request.conditions)
        ) > self.limits.conditions:  # each one more pass at once
            raise too_large(f"{count} texts to avoid and other conditions", f"{self.limits.conditions} of one request")
        if request.model not in ("", self.model.name):
            raise Refused(
                f"request.model: this service has the model {self.model.name}, not {shown(request.model)}",
                hint="leave model out, or ask a service that has it",
            )
        if request.fingerprint and request.fingerprint != self.fingerprint(request.upscale):
            raise Refused(
                f"request.fingerprint: {shown(request.fingerprint)} made this, the weights here are "
                f"{self.fingerprint(request.upscale)}",
                hint="leave fingerprint out for a new result of this model",
            )
        return replace(request, model=self.model.name, fingerprint="")

    def fingerprint(self, upscale: bool = False) -> str:
        """That of all weights that a request needs, computed once."""
        if upscale not in self._fingerprints:
            own = self.model.fingerprint
            self._fingerprints[upscale] = f"{own} {self.model.upscaler.fingerprint}" if upscale else own
        return self._fingerprints[upscale]

    @contextmanager
    def coming(self) -> Iterator[None]:
        """While this lasts, one more request is being read: jobs that were submitted just before wait for it."""
        with self._condition:
            self._coming += 1
        try:
            yield
        finally:
            with self._condition:
                self._coming -= 1
                self._condition.notify_all()

    def submit(self, request: Request, frames: str = "none") -> Job:
        """A new job. Raises :class:`Refused` if there is no room for it."""
        job = Job(request, kind(request, self.model) if self.steady else None, frames)
        with self._condition:
            self.check_open()
            if sum(other.bytes for other in self._waiting) + job.bytes > self.limits.queue_bytes and self._waiting:
                raise self._counted(self._full())
            self._waiting.append(job)
            self._known[job.id] = job
            self._tell_places()
            self._condition.notify_all()
        return job

    def check_open(self) -> None:
        """Raise :class:`Refused` while no job is taken."""
        if (why := self.closed()) is not None:
            raise self._counted(why)

    def closed(self) -> Refused | None:
        """Why no job is taken; None if jobs are."""
        if self.is_draining:
            return Refused("the service is being stopped", 503, "try again where it is started anew", 10)
        if not self.is_ready:
            return Refused("the service is warming up", 503, "try again in a moment", 2)
        return self._full() if len(self._waiting) >= self.limits.queue else None

    def _counted(self, why: Refused) -> Refused:
        with self._condition:
            self.counts["refused"] += 1
        return why

    def _full(self) -> Refused:
        seconds = round(min(max(1, len(self._waiting) * self._seconds / 2), AHEAD))
        return Refused(f"{len(self._waiting)} jobs are waiting", 503, f"try again in {seconds} seconds", seconds)

    def find(self, key: str) -> Job:
        """The job of an id. Raises :class:`Refused` if there is none, or none any more."""
        with self._condition:
            self._forget_old()
            if key not in self._known:
                kept = f"{self.limits.kept} results are kept for {self.limits.kept_seconds:g} seconds"
                raise Refused(f"no job {shown(key)} (any more)", 404, f"send the request again; {kept}")
            return self._known[key]

    def cancel(self, job: Job) -> None:
        """Stop a job between two passes; forget it if it is over."""
        with self._condition:
            if job.is_over:
                self._forget(job)
                return
            job.stop = job.stop or "cancelled"
            if job in self._waiting:
                self._waiting.remove(job)
                self._end(job)
                self._tell_places()
            self._condition.notify_all()

    def status(self) -> dict[str, int]:
        """Numbers of jobs by what has become of them."""
        with self._condition:
            self._forget_old()
            own = {"waiting": len(self._waiting), "running": len(self._running), "kept": len(self._kept)}
            own["kept_bytes"] = sum(size for _, size in self._kept.values())
            return {**own, **{name: self.counts[name] for name in (*ENDS, "refused")}}

    # ---- the end
    def drain(self) -> None:
        """Take no more jobs."""
        with self._condition:
            self.is_draining = True

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not (self._waiting or self._running)

    @property
    def is_collected(self) -> bool:
        """Whether all results were given out."""
        with self._condition:
            return all(job.collected for job, _ in self._kept.values() if job.state == "done")

    def cancel_all(self) -> None:
        """Cancel what runs and waits."""
        with self._condition:
            jobs = [*self._waiting, *self._running]
        for job in jobs:
            self.cancel(job)

    def close(self, seconds: float = 5.0) -> bool:
        """End the threads after the pass that they are at; whether they ended in time."""
        self.drain()
        self.cancel_all()
        with self._condition:
            self._ends = True
            self._condition.notify_all()
        end = time.monotonic() + seconds
        for thread in (thread for thread in self._threads if thread.is_alive()):
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    # ---- the threads
    def _first_lane(self) -> None:
        self._warm_up()
        for thread in self._threads[1:]:
            thread.start()
        self.is_ready = True
        self._lane()

    def _lane(self) -> None:
        while (batch := self._next()) is not None:
            begin = time.monotonic()
            self._turns.take()
            try:
                self._run(batch)
            except Exception:  # a defect ends one batch, not the service
                log.exception("a batch of %s failed", batch[0].verb)
                for job in _left(batch):
                    job.error = Refused("the service failed at this request", 500, "its log has the details")
            finally:
                self._turns.give()
            now = time.monotonic()
            with self._condition:
                self._running = [job for job in self._running if job not in batch]
                for job in _left(batch):
                    self._end(job)
                self._seconds += ((now - begin) / len(batch) - self._seconds) / 4
                self._expected = {kind: own for kind, own in self._expected.items() if own[1] > now}
                if (kind := batch[0].kind) is not None:
                    count = len(batch) + sum(job.kind == kind for job in self._waiting)
                    self._expected[kind] = count, now + min(GATHER_SHARE * (now - begin), GATHER_SECONDS)
                self._condition.notify_all()

    def _warm_up(self) -> None:
        """Lay out weights, make kernels and read tokenizers before anyone waits for it."""
        try:
            names = [key for key in self.model.config.targets if self.model.can_decode(key)]
            text = next((key for key in self.model.config.inputs if self.model.config.spec(key).is_causal), None)
            given = {} if text is None or text not in names else {text: "a"}
            for name in names:
                if name not in given:
                    self.model.generate(given, name, **{name: {"steps": 1}})
        except Open4MError as error:  # of a model that cannot do this; jobs say what they cannot
            log.info("nothing was generated to warm up: %s", error)

    def _next(self) -> list[Job] | None:
        """The jobs of the next batch, all of one kind that none of those has which are being made; None at the end."""
        with self._condition:
            while not self._ends:
                made = {job.kind for job in self._running} - {None}
                first = next((job for job in self._waiting if job.kind not in made), None)
                if first is None:
                    self._condition.wait(timeout=self.limits.kept_seconds)
                    self._forget_old()
                elif (left := self._patience(first)) > 0:
                    self._condition.wait(left)
                else:
                    return self._taken(first)
            return None

    def _patience(self, first: Job) -> float:
        """For how many seconds a job waits for others of its kind: those whose requests are being read, and those who
        were answered a moment ago."""
        if first.kind is None:
            return 0.0
        now, (expected, end) = time.monotonic(), self._expected.get(first.kind, (0, 0.0))
        are_there = sum(job.kind == first.kind for job in self._waiting) >= expected
        for_others = first.submitted + COMING_SECONDS - now if self._coming else 0.0
        return max(for_others, 0.0 if expected < 2 or are_there else end - now)

    def _taken(self, first: Job) -> list[Job]:
        """A job and all others that wait and fit into its batch, which are running from now on."""
        batch, rows = [first], first.rows
        for job in self._waiting:
            if job is not first and job.kind is not None and job.kind == first.kind and rows + job.rows <= BATCH_SIZE:
                batch.append(job)
                rows += job.rows
        self._waiting = [job for job in self._waiting if job not in batch]
        self._running += batch
        for job in batch:
            job.state, job.place, job.began = "running", 0, time.monotonic()
            job.events.add("started", {"together": len(batch)})
        self._tell_places()
        return batch

    def _run(self, batch: Sequence[Job]) -> None:
        tell = Teller(batch)

        def watch(progress: Snapshot, rows: Sequence[tuple[int, int]]) -> None:
            for job in batch:
                if not job.stop and job.seconds > self.limits.seconds:
                    job.stop = "late"
            if all(job.stop for job in batch):
                raise _Stopped
            self._end_stopped(batch)
            tell(progress, rows)
            self._turns.pass_on()

        try:
            made = together(self.model, [job.request for job in batch], watch)
        except _Stopped:
            return
        except (MemoryError, torch.OutOfMemoryError):  # of the machine, of an accelerator
            for job in _left(batch):
                job.error = Refused("not enough memory for this request", 503, "ask for fewer samples at once", 5)
            return
        tell.close()
        for job, outcome in zip(batch, made, strict=True):
            if job.is_over:
                continue
            if isinstance(outcome, Open4MError):
                job.error = outcome if isinstance(outcome, Refused) else Refused(str(outcome))
            elif not job.stop:
                job.outcome = outcome

    def _end_stopped(self, batch: Sequence[Job]) -> None:
        """End those jobs of a batch that should stop: the others go on, and nobody waits for them."""
        if any(job.stop for job in _left(batch)):
            with self._condition:
                for job in (job for job in _left(batch) if job.stop):
                    self._running.remove(job)
                    self._end(job)

    def _end(self, job: Job) -> None:
        """Write down what has become of a job, and tell those who watch."""
        job.ended, job.place = time.monotonic(), 0
        if job.stop == "late" and job.outcome is None:
            job.error = Refused(
                f"the job took longer than {self.limits.seconds:g} seconds", 504, "ask for fewer samples or steps"
            )
        if job.outcome is not None:
            job.state = "done"
        elif job.error is not None:
            job.state = "failed"
        else:
            job.state = "cancelled"
            job.error = Refused(f"job {job.id} was cancelled", 409, "send the request again")
        self.counts[job.state] += 1
        told: dict[str, Any] = {}
        if job.state == "done":
            told = {"result": f"/api/jobs/{job.id}/result", "seconds": round(job.seconds, 3)}
        elif job.state == "failed":
            told = {"error": str(job.error), "hint": job.error.hint, "status": job.error.status}
        job.events.add(job.state, told)
        if job.outcome is None:
            size, job.request = job.events.bytes, None
        else:
            size = job.events.bytes + bytes_of(job.outcome, job.request)
        (self._failed if job.outcome is None else self._kept)[job.id] = job, size
        self._forget_old()

    def _forget_old(self) -> None:
        """Keep no more results, bytes and seconds than is allowed, the last one always; and as many jobs without one,
        which take the place of none that has."""
        oldest = time.monotonic() - self.limits.kept_seconds
        for kept in (self._kept, self._failed):
            size = sum(size for _, size in kept.values())
            while kept:
                job, own = next(iter(kept.values()))
                is_too_much = len(kept) > self.limits.kept or size > self.limits.kept_bytes
                if not ((is_too_much and len(kept) > 1) or job.ended < oldest):
                    break
                self._forget(job)
                size -= own

    def _forget(self, job: Job) -> None:
        for kept in (self._kept, self._failed, self._known):
            kept.pop(job.id, None)

    def _tell_places(self) -> None:
        for place, job in enumerate(self._waiting, 1):
            if job.place != place:
                job.place = place
                job.events.add("queued", {"place": place})


def _left(batch: Sequence[Job]) -> list[Job]:
    """The jobs of a batch that are not over."""
    return [job for job in batch if not job.is_over]
