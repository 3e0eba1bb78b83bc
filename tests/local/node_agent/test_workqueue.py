import threading
import time

from local.node_agent.workqueue import WorkQueue

A, B = ("pod", "ns", "a"), ("pod", "ns", "b")


def test_work_comes_once_and_in_time() -> None:
    queue = WorkQueue()
    queue.add(A, 0.05)
    queue.add(B)
    queue.add(B)
    queue.add(A, 10)
    began = time.monotonic()
    assert [queue.take(), queue.take()] == [B, A]
    assert 0.04 < time.monotonic() - began < 5


def test_an_earlier_time_replaces_a_later_one() -> None:
    queue = WorkQueue()
    queue.add(A, 60)
    queue.add(A)
    assert queue.take() == A


def test_close_ends_a_wait() -> None:
    queue = WorkQueue()
    queue.add(A, 60)
    threading.Timer(0.05, queue.close).start()
    assert queue.take() is None
