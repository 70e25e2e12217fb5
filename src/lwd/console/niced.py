"""`python -m lwd.console.niced MODULE ARGUMENTS`: runs a module at the lowest priority, before it imports anything."""

import os
import runpy
import sys

if __name__ == "__main__":
    os.nice(19)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
