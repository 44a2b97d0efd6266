"""Bodies and events with clients that are slow, greedy, or gone."""

import asyncio
from types import SimpleNamespace

import pytest
from serving import TEXT
from starlette.requests import ClientDisconnect

from open4m.generate.request import Request
from open4m.serve.jobs import Job
from open4m.serve.limits import Limits, Refused
from open4m.serve.streams import AT_ONCE, Bodies, send_events


def request(parts, kind="application/json", length=None, seconds=0.0, packed=None):
    """A request whose body comes in parts, each after some seconds."""

    async def stream():
        for part in parts:
            await asyncio.sleep(seconds)
            yield part

    headers = {"content-type": kind, **({} if length is None else {"content-length": length})}
    headers |= {} if packed is None else {"content-encoding": packed}
    return SimpleNamespace(headers=headers, stream=stream)


def read(bodies, *arguments, **how):
    async def body():
        async with bodies.read(request(*arguments, **how)) as found:
            assert bodies.held == len(found)
            return found

    return asyncio.run(body())


def test_a_body_is_read_and_given_back():
    bodies = Bodies(Limits(bytes=100))
    assert read(bodies, [b"ab", b"c"]) == b"abc"
    assert bodies.held == 0


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({"parts": [b"a"], "kind": "text/plain"}, 415),
        ({"parts": [b"a"], "kind": ""}, 415),
        ({"parts": [b"a"], "packed": "gzip"}, 415),
        ({"parts": [], "length": "101"}, 413),
        ({"parts": [], "length": "9" * 5000}, 413),
        ({"parts": [], "length": "-1"}, 413),
        ({"parts": [b"a" * 60, b"a" * 60]}, 413),
        ({"parts": [b"a"] * 50, "seconds": 0.02}, 408),
    ],
)
def test_what_is_too_much_or_too_slow_is_refused(arguments, status):
    bodies = Bodies(Limits(bytes=100, body_seconds=0.2))
    with pytest.raises(Refused) as found:
        read(bodies, **arguments)
    assert found.value.status == status
    assert bodies.held == 0


def test_bodies_that_are_read_at_once_are_bounded_together():
    bodies = Bodies(Limits(bytes=100))

    async def several():
        async def one(hold):
            async with bodies.read(request([b"a" * 100])):
                await hold.wait()

        hold = asyncio.Event()
        tasks = [asyncio.create_task(one(hold)) for _ in range(AT_ONCE)]
        await asyncio.sleep(0.05)
        with pytest.raises(Refused) as found:
            async with bodies.read(request([b"a"])):
                pass
        assert (found.value.status, found.value.retry_after) == (503, 1)
        hold.set()
        await asyncio.gather(*tasks)
        async with bodies.read(request([b"a" * 100])):
            pass

    asyncio.run(several())
    assert bodies.held == 0


def job():
    return Job(Request.from_json(TEXT), None)


def streamed(own, last=0, send=None, receive=None, act=lambda: None):
    """What is sent of the events of a job; ``act`` happens meanwhile."""
    sent = []

    async def put(message):
        sent.append(message.get("body", b""))

    async def never():
        await asyncio.sleep(60)

    async def run():
        task = asyncio.create_task(send_events(own, last, {}, receive or never, send or put))
        await asyncio.sleep(0.02)
        act()
        await asyncio.wait_for(task, 10)

    asyncio.run(run())
    return b"".join(sent)


def test_events_are_sent_as_they_come_until_the_last():
    own = job()
    own.events.add("queued", {"place": 1})
    found = streamed(own, act=lambda: (own.events.add("started", {}), own.events.add("done", {})))
    assert [line for line in found.split(b"\n") if line.startswith(b"event")] == [
        b"event: queued",
        b"event: started",
        b"event: done",
    ]
    assert b"queued" not in streamed(own, last=1)
    assert streamed(own, last=3) == streamed(own, last=99) == b""
    assert own.events.listeners == set()


def test_the_stream_ends_when_the_client_is_gone():
    async def gone():
        return {"type": "http.disconnect"}

    own = job()
    streamed(own, receive=gone)
    assert own.events.listeners == set()


def test_who_says_the_number_of_no_event_sees_the_next_ones_and_the_end():
    own = job()
    own.events.add("queued", {"place": 1})
    found = streamed(own, last=10**14, act=lambda: (own.events.add("started", {}), own.events.add("failed", {})))
    assert found.count(b"event: ") == 2
    assert b"event: failed" in found


def test_who_hangs_up_before_the_body_is_here_is_no_defect():
    async def stream():
        yield b"{"
        raise ClientDisconnect

    async def read():
        async with bodies.read(SimpleNamespace(headers={"content-type": "application/json"}, stream=stream)):
            pass

    bodies = Bodies(Limits(bytes=100))
    with pytest.raises(Refused, match="hung up"):
        asyncio.run(read())
    assert bodies.held == 0


def test_a_stream_without_news_says_that_it_is_alive(monkeypatch):
    monkeypatch.setattr("open4m.serve.streams.ALIVE_SECONDS", 0.005)
    own = job()
    assert b": alive\n\n" in streamed(own, act=lambda: own.events.add("done", {}))
