"""What is done again and again beside the body: as often as asked, and no longer than it."""

from __future__ import annotations

import threading

import pytest

from orchestrator.repeated import repeated


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_it_is_called_while_the_body_runs_and_never_afterwards():
    called = threading.Semaphore(0)
    with repeated(called.release, every_s=0.01, name="often"):
        assert called.acquire(timeout=10) and called.acquire(timeout=10)
        assert "often" in names()
    assert "often" not in names()
    while called.acquire(blocking=False):
        pass
    assert not called.acquire(timeout=0.1)


def test_it_ends_with_a_body_that_fails():
    def fail():
        with repeated(lambda: None, every_s=0.01, name="often"):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert "often" not in names()
