"""The benchmark: two models and random weights on three tasks, stopped and gone on with, and its table."""

import dataclasses
import json

import pytest
from tiny_transfers import data, short

from open4m import FourM
from open4m.model.fourm import FourMTransformer
from open4m.rng import seeded
from open4m.transfer.tokens import benchmark as module
from open4m.transfer.tokens.benchmark import Benchmark, Runner, chosen
from open4m.transfer.tokens.recipe import start_of
from open4m.transfer.tokens.result import read
from open4m.types import Open4MError

TASKS = tuple(
    dataclasses.replace(short(inputs, target, epochs=2, evaluations=2, **fields), group=group)
    for inputs, target, group, fields in (
        (("rgb_pixels",), "edges_2d", "RGB→X", {}),
        (("depth",), "edges_2d", "X→Y", {"frozen_epochs": 1}),
        (("rgb_pixels", "depth"), "semseg", "X+Y→Z", {}),
    )
)


@pytest.fixture(scope="module")
def made(raw, pretrained, model, tmp_path_factory):
    """A benchmark of which the second model came later, and its directory."""
    root = tmp_path_factory.mktemp("benchmark")
    other = FourM(FourMTransformer(model.config).initialize(seeded(5)), model.grids, model.text)
    other.save(root / "other")
    (root / "sources").mkdir()
    (root / "sources" / "tiny").symlink_to(raw)
    first = Benchmark(
        transfers=TASKS,
        starts=(start_of("tiny", str(pretrained)), start_of("random", str(pretrained), pretrained=False)),
        data={"tiny": data("depth", "edges_2d", "semseg")},
        sources=root / "sources",
    )
    Runner(first, root / "out").run()
    return dataclasses.replace(first, starts=(*first.starts, start_of("other", str(root / "other")))), root / "out"


def test_a_later_model_is_added_and_what_is_done_is_not_made_again(made, monkeypatch):
    benchmark, out = made
    done = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    assert len(done) == 6
    called = []
    real = module.transfer

    def counted(one, start, *rest):
        called.append((one.name, start.name))
        return real(one, start, *rest)

    monkeypatch.setattr(module, "transfer", counted)
    found = Runner(benchmark, out).run()
    assert called == [(task.name, "other") for task in TASKS]
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())
    assert [row.name for row in found.rows] == ["tiny", "random", "other"]
    for task in TASKS:
        for name in ("tiny", "random", "other"):
            result = read(out / "runs" / name / task.name)
            assert found.losses[task.name][name] == result.best.loss == min(e.loss for e in result.curve)
    tiny, random, other = (row.rank for row in found.rows)
    assert random is None
    assert tiny + other == pytest.approx(3)  # of two places
    assert (out / "transfers.md").read_text() == found.markdown()
    assert json.loads((out / "transfers.json").read_text())["groups"] == ["RGB→X", "X→Y", "X+Y→Z"]
    called.clear()
    monkeypatch.setattr(module.Prepared, "run", None)  # no data are needed any more
    assert Runner(benchmark, out).run() == found
    assert called == []


def test_what_was_done_with_other_data_is_not_taken_for_what_is_asked(made):
    """Such as a first look at few samples, which all is done of."""
    benchmark, out = made
    before = (out / "transfers.json").read_bytes()
    few = {"tiny": dataclasses.replace(benchmark.data["tiny"], train=3)}
    with pytest.raises(Open4MError, match=r"tiny holds a run with another configuration \(train: 0 -> 3\)"):
        Runner(dataclasses.replace(benchmark, data=few), out).run()
    assert (out / "transfers.json").read_bytes() == before


def test_random_weights_give_other_losses_and_all_models_the_same_tokens(made):
    _, out = made
    for task in TASKS:
        tiny, random = (read(out / "runs" / name / task.name) for name in ("tiny", "random"))
        assert tiny.best.loss != random.best.loss
        assert tiny.uniform == random.uniform
        assert tiny.fresh == tuple(key for key in task.keys if key != "rgb_pixels")
    assert [path.name for path in (out / "data" / "tiny").iterdir() if path.is_dir()].count("tokens") == 1


def test_the_plan_says_what_is_left_and_writes_nothing(made, tmp_path):
    benchmark, out = made
    lines = Runner(benchmark, tmp_path / "new").plan()
    assert lines[0].startswith(
        f"data tiny: raw shards in {benchmark.sources / 'tiny'}; depth, edges_2d, rgb_pixels, semseg"
    )
    assert any(line.startswith("transfer tiny-depth-to-edges_2d (X→Y): 2 epochs, 1 of them frozen") for line in lines)
    assert lines[-1].startswith("9 of 9 transfers are to be made")
    assert not (tmp_path / "new").exists()
    fewer = dataclasses.replace(benchmark, starts=benchmark.starts[:2])
    assert Runner(fewer, out).plan()[-1].startswith("0 of 6 transfers are to be made")


def test_tasks_are_chosen_by_patterns_in_their_order():
    names = [task.name for task in TASKS]
    assert chosen(TASKS, []) == TASKS
    assert [task.name for task in chosen(TASKS, ["*semseg", "tiny-rgb_pixels-*"])] == [names[0], names[2]]
    with pytest.raises(Open4MError, match=f"no task 'tiny-depth-edges_2d'; did you mean {names[1]}"):
        chosen(TASKS, ["tiny-depth-edges_2d"])


def test_what_is_named_twice_or_not_known_is_refused(made):
    benchmark, _ = made
    with pytest.raises(Open4MError, match="the model tiny is named twice; models may be named NAME=MODEL"):
        dataclasses.replace(benchmark, starts=benchmark.starts[:1] * 2)
    with pytest.raises(Open4MError, match="no data set tiny"):
        dataclasses.replace(benchmark, data={})
    with pytest.raises(Open4MError, match="name at least one transfer"):
        dataclasses.replace(benchmark, transfers=())
