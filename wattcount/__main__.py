"""`python -m wattcount` is `wattcount`."""

from __future__ import annotations

import sys

from wattcount.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
