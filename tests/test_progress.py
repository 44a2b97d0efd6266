"""open4m.progress: a bar on a terminal, log lines elsewhere."""

import io
import logging

import pytest
from rich.console import Console

from open4m import progress
from open4m.progress import Progress, clock, track


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def time(monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="open4m")
    moved = Clock()
    monkeypatch.setattr(progress, "time", moved)
    return moved


def test_without_a_terminal_lines_come_every_ten_seconds_and_at_the_end(time, caplog):
    with Progress("read", 40, unit="rows") as shown:
        for _ in range(40):
            time.now += 1.0
            shown.advance()
    assert caplog.messages == [
        "read: 2 of 40 rows, 0:38 left",
        "read: 12 of 40 rows, 0:28 left",
        "read: 22 of 40 rows, 0:18 left",
        "read: 32 of 40 rows, 0:08 left",
        "read: 40 of 40 rows",
    ]


def test_a_resumed_job_counts_what_was_done_before_but_not_its_time(time, caplog):
    with Progress("train", 100, start=90) as shown:
        time.now += 20.0
        shown.update(95, note="loss 1.5")
    assert caplog.messages == ["train: 95 of 100, loss 1.5, 0:20 left"]


def test_where_the_total_is_not_known_the_speed_is_told_and_the_count_at_the_end(time, caplog):
    with Progress("import", unit="images") as shown:
        time.now += 10.0
        shown.update(50)
    assert caplog.messages == ["import: 50 images, 5 per second", "import: 50 images"]


def test_track_gives_the_same_items_and_stops_with_the_one_who_takes_them(time, caplog):
    assert list(track("abc", "letters")) == ["a", "b", "c"]
    assert caplog.messages == ["letters: 3 of 3"]
    assert list(track(iter("abc"), "letters")) == ["a", "b", "c"]
    assert caplog.messages[1:] == ["letters: 3"]
    taken = track("abc", "letters")
    assert next(taken) == "a"
    taken.close()
    assert caplog.messages[2:] == []


def test_an_error_ends_the_display_and_is_raised(time):
    with pytest.raises(ValueError, match="wrong"), Progress("read", 3):
        raise ValueError("wrong")


def test_a_terminal_shows_a_bar_and_no_lines(time, caplog, monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda **_: Console(file=terminal, force_terminal=True, width=120, color_system=None)
    )
    monkeypatch.setattr(progress, "time", __import__("time"))
    with Progress("read", 2) as shown:
        shown.advance(note="loss 0.5")
        shown.advance()
    assert "read" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3600, "1:00:00"), (36_061, "10:01:01")]
)
def test_times_are_written_as_on_a_clock(seconds, text):
    assert clock(seconds) == text


def test_a_long_step_says_how_far_it_is(time, caplog):
    with Progress("label train", 2, unit="shards") as shown:
        for batch in progress.within([range(4), range(4), range(2)], "samples"):
            time.now += 5.0 * len(batch)
        shown.advance()
        assert list(progress.within([], "samples")) == []
        shown.advance()
    assert caplog.messages == [
        "label train: 0 of 2 shards, 4 of 10 samples of the next one, 1:20 left",
        "label train: 0 of 2 shards, 8 of 10 samples of the next one, 1:00 left",
        "label train: 1 of 2 shards, 0:50 left",
        "label train: 2 of 2 shards",
    ]
    assert [list(batch) for batch in progress.within([range(2)], "samples")] == [[0, 1]]  # where nothing is shown
    assert len(caplog.messages) == 4


def test_log_lines_hold_no_control_characters_of_files_that_they_name(capsys):
    record = logging.LogRecord("open4m", logging.WARNING, "", 0, "%s\nnot read", ("a\x1b[31m\r\u00e9.png",), None)
    progress.Lines().emit(record)
    assert capsys.readouterr().err == "a\\x1b[31m\\r\u00e9.png\nnot read\n"
