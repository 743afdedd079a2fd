"""The table of the estimator's constants in docs/appendix.md: what each is, its value, and where it comes from.

All of it stands in the code: a constant's docstring says what it is, with its unit in brackets, and then one of the
words of `ORIGINS` and why.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from wattcount.report.units import markdown

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("curve", "counter", "uncertainty", "plausible", "anchored", "estimate")
"""Of `wattcount.energy`: what an energy is estimated with."""
ORIGINS = ("Derived", "Measured", "Stated", "Chosen")


def constants(path: Path) -> list[tuple[str, str, str | None]]:
    """(name, value as it is written, docstring or None) of each public constant of a module but reason codes, in its order."""
    found = []
    body = ast.parse(path.read_text()).body
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.Assign):
            target, value = statement.targets[0], statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            target, value = statement.target, statement.value
        else:
            continue
        if isinstance(target, ast.Name) and re.fullmatch(r"[A-Z][A-Z0-9_]*", target.id):
            text = (
                after.value.value
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                else None
            )
            if not str(text).startswith("Reason code"):
                found.append((target.id, ast.unparse(value), str(text) if text is not None else None))
    return found


def row(module: str, name: str, value: str, text: str | None) -> list[str]:
    """ValueError where the docstring is missing, or does not say where the value comes from."""
    said = " ".join((text or "").split())
    split = re.search(rf"\b({'|'.join(ORIGINS)})\b[.:]", said)
    if split is None:
        raise ValueError(
            f"wattcount.energy.{module}.{name}: its docstring does not say {' / '.join(ORIGINS)}, and why"
        )
    what, why = said[: split.start()].strip(), said[split.start() :].strip()
    short = value if len(value) <= 30 else re.sub(r"\s+", " ", value)[:27] + "..."
    return [f"`{module}.{name}`", f"`{short}`", what.rstrip("."), why.rstrip(".")]


def estimator_constants() -> str:
    rows = [
        row(module, *constant)
        for module in MODULES
        for constant in constants(ROOT / "wattcount" / "energy" / f"{module}.py")
    ]
    return markdown(["constant", "value", "what", "where from"], rows)
