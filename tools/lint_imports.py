"""Runs import-linter (the contracts of pyproject.toml) on this checkout: `python tools/lint_imports.py`.

An editable installation finds the package by a finder of its own, which gives the whole checkout as the package's folder.
Without that finder the package is found as any other.
"""

from __future__ import annotations

import sys
from pathlib import Path

from importlinter.cli import lint_imports_command

sys.meta_path[:] = [finder for finder in sys.meta_path if "ScikitBuild" not in type(finder).__name__]
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.exit(lint_imports_command())
