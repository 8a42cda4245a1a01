"""Runs a script as an interpreter does in whose environment the fake sglang lies:
`interpreter.py -I SCRIPT ARGUMENTS`."""

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
