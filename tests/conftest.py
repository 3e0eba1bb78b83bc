"""Keep the million objects of the imported SDKs out of every collection of garbage."""

import gc


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
