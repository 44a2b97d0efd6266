"""Another sample takes the place of a damaged one, counted, up to a share of all."""

import logging

import pytest

from open4m.data.readable import Readable
from open4m.store import UnreadableSample

DAMAGED = {2, 3, 9}


class Samples:
    def __len__(self):
        return 10


def make(place):
    if place in DAMAGED:
        raise UnreadableSample(f"sample {place} is damaged")
    return place


def test_the_next_one_that_can_be_read_takes_the_place(caplog):
    samples = Readable(Samples(), allowed=0.3)
    with caplog.at_level(logging.WARNING, logger="open4m"):
        assert [samples.use(i, make) for i in range(10)] == [0, 1, 4, 4, 4, 5, 6, 7, 8, 0]
        assert samples.use(2, make) == 4
    assert [record.message for record in caplog.records] == [
        "sample 2 is damaged; another one takes its place (1 of 10 samples so far)",
        "sample 3 is damaged; another one takes its place (2 of 10 samples so far)",
        "sample 9 is damaged; another one takes its place (3 of 10 samples so far)",
    ]


def test_by_default_none_may_be_damaged():
    with pytest.raises(UnreadableSample, match=r"^sample 2 is damaged$"):
        Readable(Samples()).use(2, make)


def test_more_than_are_allowed_end_it():
    samples = Readable(Samples(), allowed=0.1)
    with pytest.raises(UnreadableSample, match=r"sample 3 is damaged; 2 of 10 samples cannot be used, .* share 0\.1"):
        samples.use(2, make)


def test_where_nothing_can_be_read_it_ends():
    def none(place):
        raise UnreadableSample(f"sample {place}")

    with pytest.raises(UnreadableSample, match="sample 9; 10 of 10 samples cannot be used"):
        Readable(Samples(), allowed=0.95).use(0, none)
