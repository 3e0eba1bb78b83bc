"""Runs a plugin's module for as long as its engine lives: `python -m local.plugin_host MODULE ARGUMENTS…`.

An engine that is killed cannot end its plugins, and a plugin that stays would finish steps nobody waits for.
"""

import os
import runpy
import sys
import threading
import time

_PAUSE = 0.5


def main() -> None:
    """Become the module, with a watcher beside it."""
    end_with_engine()
    module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def end_with_engine() -> None:
    """Watch the engine that started this process, and end with it."""
    threading.Thread(target=_follow, args=(os.getppid(),), name="engine-watch", daemon=True).start()


def _follow(engine: int) -> None:
    """End this process once it has been handed to another parent."""
    while os.getppid() == engine:
        time.sleep(_PAUSE)
    os._exit(1)


if __name__ == "__main__":
    main()
