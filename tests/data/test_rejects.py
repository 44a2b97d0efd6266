"""What a job leaves out is written down, replaced with its shard and counted by reason; too much of it is an error."""

import pytest

from open4m.data.rejects import Reject, Rejects, TooManyRejects
from open4m.types import Open4MError


def test_rejects_are_read_as_they_were_written(tmp_path):
    log = Rejects(tmp_path, "import", samples=10, allowed=0.5)
    rejects = log.of_shard(3)
    rejects.add("a", "rgb", "not readable", "broken\nin two lines \u2028 and \udc80")
    rejects.add("b/ü", "rgb", "duplicate", by_policy=True)
    rejects.commit()
    broken, duplicate = log.read(3)
    assert broken == Reject("a", "rgb", "not readable", "broken\nin two lines \u2028 and ?")
    assert duplicate == Reject("b/ü", "rgb", "duplicate", by_policy=True)
    assert {path.name for path in log.folder.iterdir()} == {".lock", "shard-00003.jsonl"}
    log.of_shard(3).commit()  # the shard was made again, and nothing was wrong
    assert log.read(3) == []


def test_more_than_the_share_of_the_whole_job_is_an_error_that_names_the_first(tmp_path):
    rejects = Rejects(tmp_path, "label depth", samples=100, allowed=0.02).of_shard(0)
    for key in "abc":
        rejects.add(key, "depth", "duplicate", by_policy=True)
    rejects.add("first", "rgb", "not readable", "cut off")
    rejects.add("second", "rgb", "not readable")
    with pytest.raises(
        TooManyRejects, match=r"label depth: 3 of 100 .* 2\.00% .* first, rgb: not readable \(cut off\)"
    ):
        rejects.add("third", "rgb", "not readable")
    with pytest.raises(TooManyRejects):
        Rejects(tmp_path, "job", samples=100).of_shard(0).add("any", "rgb", "not readable")
    with pytest.raises(TooManyRejects):
        Rejects(tmp_path, "job", samples=100, allowed=0.5).of_shard(0).add("shard", "rgb", "truncated", samples=51)


def test_the_summary_counts_by_reason_and_names_the_first(tmp_path):
    log = Rejects(tmp_path, "import", samples=1000, allowed=1.0)
    assert log.summary(range(3)) == []
    for shard in (0, 1):
        rejects = log.of_shard(shard)
        rejects.add(f"tiny{shard}", "rgb", "too small", f"{shard} pixels")
        for i in range(2):
            rejects.add(f"broken{shard}{i}", "depth", "not readable", f"byte {i}")
        rejects.commit()
    title, most, least = log.summary(range(3))
    assert title.startswith("import: 6 of 1000 samples were left out")
    assert most.split() == ["4", "depth:", "not", "readable;", "first", "broken00"]
    assert least.split() == ["2", "rgb:", "too", "small;", "first", "tiny0"]


@pytest.mark.parametrize("content", [b"{}", b"nonsense", b'{"key": "a", "size": 1}', b"[1]"])
def test_damaged_files_are_named(tmp_path, content):
    log = Rejects(tmp_path, "import", samples=10)
    log.folder.mkdir(parents=True)
    log.path(0).write_bytes(content)
    with pytest.raises(Open4MError, match=r"shard-00000\.jsonl"):
        log.read(0)


def test_impossible_shares_are_refused(tmp_path):
    with pytest.raises(Open4MError, match="0 to 1, got 2"):
        Rejects(tmp_path, "import", samples=10, allowed=2)
