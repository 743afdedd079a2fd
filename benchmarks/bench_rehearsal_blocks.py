"""What made the prefills of gpt-oss-20b's rehearsals slow: was a step's number of blocks of some tokens new to the engine?

    python benchmarks/bench_rehearsal_blocks.py

Reads the records of an H100 (evidence: measured) whose rehearsals never settled, ladder and sizes drawn at random, and counts for
each size of block the groups that were slow or not, and had a step with a number of blocks that no group before had, or
not. Prints one JSON object a line.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from wattcount.record import Record

RECORDS = Path(__file__).parent.parent / "data" / "h100" / "records"
SLOW_S = 0.95
"""A group usually takes 0.45 s, and a second more where a kernel is compiled."""


def groups(record: Record) -> list[tuple[int, int]]:
    """(first send, last token) of each group of the rehearsal, nanoseconds: one begins once all before have ended."""
    rows = record.requests.to_pandas().query("phase == 'rehearsal' and last_token_ns.notna()")
    found: list[tuple[int, int]] = []
    for sent, ended in rows.sort_values("actual_send_ns")[["actual_send_ns", "last_token_ns"]].to_numpy(
        np.int64
    ):
        if found and sent < found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], int(ended)))
        else:
            found.append((int(sent), int(ended)))
    return found


def count(record: Record, block_tokens: int) -> dict[str, int]:
    steps = record.steps.to_pandas().sort_values("logged_ns")
    logged_ns = steps["logged_ns"].to_numpy()
    blocks = -(-(steps["prefill_tokens"] + steps["decode_tokens"]).to_numpy() // block_tokens)
    met: set[int] = set()
    counts = dict.fromkeys(("slow_new", "slow_met", "other_new", "other_met"), 0)
    for number, (begin_ns, end_ns) in enumerate(groups(record)):
        own = set(blocks[(logged_ns >= begin_ns) & (logged_ns < end_ns)].tolist()) - {0}
        if number:  # the first one holds hundreds of steps
            slow = "slow" if end_ns - begin_ns > SLOW_S * 1e9 else "other"
            counts[f"{slow}_{'new' if own - met else 'met'}"] += 1
        met |= own
    return counts


def main() -> None:
    chosen = []
    for path in sorted(RECORDS.glob("*/*/")):
        record = Record.open(path)
        told = record.info.rehearsal or {}
        if record.info.config["model"]["name"] == "gpt_oss_20b" and told.get("settled") is False:
            chosen.append(record)
    for block_tokens in (8, 16, 32, 64, 128):
        each = [count(record, block_tokens) for record in chosen]
        total = {key: sum(one[key] for one in each) for key in each[0]}
        print(json.dumps({"block_tokens": block_tokens, "records": len(chosen)} | total))


if __name__ == "__main__":
    main()
