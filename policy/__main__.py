"""What the engine runs: the folder, as `python policy ADDRESS`, or the package."""

import importlib
import sys
from pathlib import Path

# Run as a folder, it would find its own files at the top and not the package that they are.
sys.path[0] = str(Path(__file__).resolve().parents[1])
importlib.import_module("policy.server").serve()
