"""What the service costs over the model: ``python -m benchmarks.serve``, in under three minutes on two cores.

It starts ``open4m serve`` on a free port of this machine and prints JSON: seconds from a click to the first picture and
to all modalities of a photo; the throughput of users at once as a part of that of the batched engine, in rounds that
take turns, so that other work on the machine disturbs both; whether the tokens of each user are those of the request
alone; and the memory of the server over many requests.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import torch

from open4m import FourM, modalities
from open4m.datasets.scenes import Scenes
from open4m.generate import values
from open4m.generate.request import Generate, Request
from open4m.generate.together import together
from open4m.serve.client import Client


@contextlib.contextmanager
def served(model: str, threads: int) -> Iterator[Client]:
    """A client of a service that is ready."""
    command = [sys.executable, "-m", "open4m", "serve", "--model", model, "--port", "0", "--queue", "64"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        client = Client(re.search(r"http://\S+:\d+", process.stdout.readline())[0])
        while not client.ready():
            time.sleep(0.1)
        yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def at_once(jobs: list[Callable[[], object]]) -> list[object]:
    """The results of functions that run in a thread each."""
    found: list[object] = [None] * len(jobs)

    def run(place: int) -> None:
        found[place] = jobs[place]()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def click(client: Client, request: Request) -> tuple[float, float]:
    """Seconds until the first picture of a pass, and until the result is there."""
    begin, first = time.perf_counter(), 0.0
    job = client.submit(request, frames="png")
    for event in job.events():
        if not first and event.name == "pass" and any(sample["picture"] for sample in event.data["samples"]):
            first = time.perf_counter() - begin
    job.result()
    return first, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=200, help="over which the memory is measured")
    parser.add_argument("--seconds", type=float, default=60.0, help="that these requests may take together")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = FourM.from_pretrained(options.model)
    photo, text = modalities.of_role("photo").name, modalities.of_role("text").name
    everything = tuple(key for key in model.config.targets if key != photo)
    scenes = Scenes("test", resolution=max(t.config.image_size for t in model.grids.values()))
    images = [scenes[n][photo] for n in range(options.users)]
    requests = [Generate(given={photo: image}, targets=everything, seed=n) for n, image in enumerate(images)]
    figures: dict[str, object] = vars(options)
    with served(options.model, options.threads) as client:
        clicks = [click(client, requests[n % len(requests)]) for n in range(3)]
        figures["first_picture_seconds"] = round(statistics.median(first for first, _ in clicks), 3)
        figures["all_of_a_photo_seconds"] = round(statistics.median(whole for _, whole in clicks), 2)

        written = [request.to_json() for request in requests]
        engine, service, made = [], [], []
        for _ in range(options.rounds):
            engine.append(timed(lambda: together(model, requests)))
            users = [lambda body=body: client.run(body) for body in written]
            service.append(timed(lambda users=users: made.append(at_once(users))))
        figures["engine_seconds"] = [round(seconds, 2) for seconds in engine]
        figures["service_seconds"] = [round(seconds, 2) for seconds in service]
        pairs = zip(engine, service, strict=True)
        figures["throughput_of_the_engine"] = round(statistics.median(one / other for one, other in pairs), 3)
        alone = [request.run(model).results[0].tokens for request in requests]
        figures["same_tokens"] = all(
            {key: target.tokens for key, target in answer.results[0].targets.items()}
            == {key: tokens.tolist() for key, tokens in expected.items()}
            for answers in made
            for answer, expected in zip(answers, alone, strict=True)
        )

        body = {"verb": "generate", "given": {text: values.encode("a red cone")}, "targets": [everything[0]]}
        body["options"] = {"steps": 1}
        memory, begin = [], time.perf_counter()
        for seed in range(options.requests):
            client.run({**body, "seed": seed})
            memory.append(client.status().memory_bytes)
            if time.perf_counter() - begin > options.seconds:
                break
        settled = len(memory) // 2  # as many results as are kept have come by then, or never come
        figures["requests_done"] = len(memory)
        figures["memory_mib"] = round(memory[-1] / 2**20)
        figures["memory_grown_mib"] = round((memory[-1] - memory[settled]) / 2**20, 1)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
