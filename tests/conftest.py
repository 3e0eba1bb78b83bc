"""For all tests: a data folder of their own, and the SDKs' million objects out of garbage collection."""

import atexit
import gc
import os
import shutil
import tempfile

# Before anything imports `local.paths`, which reads it once: what a test writes, or deletes at its end, is
# never the data of a platform that runs in this checkout.
os.environ["AGENT_PLATFORM_DATA"] = tempfile.mkdtemp(prefix="agent-platform-tests-")
atexit.register(shutil.rmtree, os.environ["AGENT_PLATFORM_DATA"], ignore_errors=True)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
