"""A Ray cluster of this machine for the tests of a module: starting one takes longer than the tests."""

import pytest


@pytest.fixture(scope="module")
def cluster():
    """Its address. It has more logical CPUs than the machine: with two, work that is started again waits for ever."""
    import ray

    from open4m.data.jobs.ray import start

    start(6)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
