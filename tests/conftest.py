"""What the SDKs import is a million objects: keep them out of every collection of garbage."""

import gc


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
