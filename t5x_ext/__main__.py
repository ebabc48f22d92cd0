"""`python -m t5x_ext COMMAND ...`: the console script, where only Python is on the path."""

from __future__ import annotations

import sys

from t5x_ext.cli import main

if __name__ == "__main__":
    sys.exit(main())
