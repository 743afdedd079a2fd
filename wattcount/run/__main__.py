"""`python -m wattcount.run JOB.json`: a run's own process, see `worker`.

Here and not there, because vLLM spawns its processes, and Python imports the main module into a spawned process anew,
with all that it imports, unless it is a package's `__main__`.
"""

from __future__ import annotations

import os
import sys

from wattcount.run.worker import main

if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # The record is in place and the engine is gone; tearing down an interpreter with torch in it takes seconds.
    os._exit(code)
