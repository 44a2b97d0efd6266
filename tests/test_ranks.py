"""The processes that share a training: without others, and as two."""

import pytest
import torch
from rank_processes import run_ranks

from open4m import ranks
from open4m.types import Open4MError, Preempted


def test_a_process_alone_is_the_only_rank():
    rows = torch.ones(3, 2)
    assert (ranks.count(), ranks.rank(), ranks.is_first()) == (1, 0, True)
    assert list(ranks.rows_of_rank(7)) == list(range(7))
    assert ranks.summed([1, 2.5]) == [1, 2.5]
    assert ranks.largest(3) == 3
    assert ranks.gathered(rows) is rows
    assert ranks.on_first(lambda: "done") == "done"
    with ranks.joined("cpu") as device:
        assert device == "cpu"


def test_a_batch_of_fewer_rows_than_ranks_is_refused_on_every_rank(monkeypatch):
    monkeypatch.setattr(ranks.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(ranks.dist, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(ranks.dist, "get_rank", lambda rank=rank: rank)
        with pytest.raises(Open4MError, match="batch_size 1: expected at least one row for each of 2 ranks"):
            ranks.rows_of_rank(1)
        assert list(ranks.rows_of_rank(2)) == [rank]


def everything(rank: int, root) -> dict:
    """What a rank of two finds."""
    tensors = [torch.full((2,), rank + 1.0), torch.tensor([rank], dtype=torch.int64)]
    first = [torch.full((2,), float(rank + 5))]
    ranks.add_up(tensors)
    ranks.share_first(first)
    found = {
        "who": (ranks.count(), ranks.rank(), ranks.is_first()),
        "rows": list(ranks.rows_of_rank(7)),
        "sums": ranks.summed([rank, 3]) + ranks.summed([0.25, rank]),
        "largest": ranks.largest(rank),
        "added": [tensor.tolist() for tensor in tensors],
        "shared": first[0].tolist(),
        "gathered": ranks.gathered(torch.full((rank + 1, 2), float(rank))).tolist(),
        "nothing gathered": list(ranks.gathered(torch.zeros(0, 2)).shape),
        "done": ranks.on_first(lambda: [ranks.count(), "done"], long=True),
    }
    for error in (Open4MError("wrong"), Preempted("later")):

        def fail(error=error):
            raise error

        try:
            ranks.on_first(fail)
        except (Open4MError, Preempted) as raised:
            found[type(error).__name__] = (type(raised).__name__, str(raised))
    with ranks.alone():
        found["alone"] = (ranks.count(), ranks.rank())
    return found


def test_two_ranks_add_up_gather_and_wait_for_the_first(tmp_path):
    one, two = run_ranks(everything, 2, tmp_path)
    assert (one.pop("who"), two.pop("who")) == ((2, 0, True), (2, 1, False))
    assert (one.pop("rows"), two.pop("rows")) == ([0, 1, 2], [3, 4, 5, 6])
    assert one.pop("Open4MError") == ("Open4MError", "wrong")
    assert two.pop("Open4MError") == ("OtherRank", "the first rank failed: wrong")
    assert one == two
    assert one == {
        "sums": [1, 6, 0.5, 1.0],
        "largest": 1,
        "added": [[3.0, 3.0], [1]],
        "shared": [5.0, 5.0],
        "gathered": [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]],
        "nothing gathered": [0, 2],
        "done": [1, "done"],
        "Preempted": ("Preempted", "later"),
        "alone": (1, 0),
    }
