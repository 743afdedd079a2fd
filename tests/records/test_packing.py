"""Tables of a record as they lie in their files: small, and the same when they are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wattcount.records import intake, packing, schema
from wattcount.records.schema import POWER_SCHEMA, REQUESTS_SCHEMA, STEPS_SCHEMA, TOKENS_SCHEMA

SENT_NS = 600_000_000_000


def read(file: Path, columns: pa.Schema) -> pa.Table:
    return packing.unpacked(intake.read_table(file, packing.stored_schema(columns), frozenset()), columns)


def requests(times_ns: list[list[int]]) -> pa.Table:
    row = dict.fromkeys(REQUESTS_SCHEMA.names)
    return pa.Table.from_pylist(
        [
            row | {"request_id": f"w{i}", "index": i, "token_ts_ns": t_ns, "token_count": [1 + i] * len(t_ns)}
            for i, t_ns in enumerate(times_ns)
        ],
        REQUESTS_SCHEMA,
    )


def steps_of_a_batch(steps: int, running: int, seed: int) -> list[list[int]]:
    """Arrivals as they are at a client: every 5 ms one token of each request, 7 to 12 us after each other."""
    rng = np.random.default_rng(seed)
    begins = SENT_NS + 5_000_000 * np.arange(steps)[:, None]
    t_ns = begins + np.cumsum(rng.integers(7_000, 12_000, (steps, running)), axis=1)
    return np.asarray(t_ns.T).tolist()


def test_times_are_whole_microseconds_and_all_else_is_as_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    n = 500
    t0 = SENT_NS + np.sort(rng.integers(0, 10**11, n))
    some = rng.random(n) < 0.3
    table = pa.table(
        [
            pa.array(rng.choice(["GPU-a", "GPU-b"], n)).dictionary_encode(),
            pa.array(rng.choice(["energy_counter", "power_usage"], n)).dictionary_encode(),
            pa.array(t0 - rng.integers(1, 10**9, n), mask=some),
            pa.array(t0),
            pa.array(t0 + rng.integers(0, 10**7, n)),
            pa.array(rng.integers(-(2**62), 2**62, n), mask=~some),
            pa.array(rng.integers(-(2**63), 2**63 - 1, n)),
            pa.array(rng.integers(0, 3, n).astype(np.int32)),
        ],
        names=POWER_SCHEMA.names,
    ).cast(POWER_SCHEMA)
    parts = [table.slice(0, 200), table.slice(200, 0), table.slice(200, 300)]
    facts = packing.write(tmp_path / "power", POWER_SCHEMA, parts)
    assert facts.rows == n
    assert facts.bytes == (tmp_path / "power").stat().st_size
    found = read(tmp_path / "power", POWER_SCHEMA)
    for name in POWER_SCHEMA.names:
        was, now = table[name].to_pylist(), found[name].to_pylist()
        if name.endswith("_ns"):
            was = [packing.whole_us(t_ns) for t_ns in was]
        assert now == was, name


def test_a_step_s_share_of_the_cache_is_kept_to_a_millionth(tmp_path: Path) -> None:
    shares = [0.0, None, 0.123456789, 1.0, float("nan"), 0.5]
    rows = [dict.fromkeys(STEPS_SCHEMA.names) | {"logged_ns": 5, "kv_cache_usage": share} for share in shares]
    packing.write(tmp_path / "steps", STEPS_SCHEMA, [pa.Table.from_pylist(rows, STEPS_SCHEMA)])
    found = read(tmp_path / "steps", STEPS_SCHEMA)["kv_cache_usage"].to_pylist()
    assert found == [0.0, None, pytest.approx(0.123457), 1.0, None, 0.5]


@pytest.mark.parametrize(
    "times_ns",
    [
        [],
        [[]],
        [[], [SENT_NS], []],
        [[SENT_NS + 3000, SENT_NS + 9000], [SENT_NS, SENT_NS + 3000, SENT_NS + 3000], []],
        steps_of_a_batch(20, 7, seed=2),
    ],
)
def test_tokens_come_back_to_their_requests(tmp_path: Path, times_ns: list[list[int]]) -> None:
    table = requests(times_ns)
    rows, tokens = packing.split(table)
    assert tokens["arrival_ns"].to_pylist() == sorted(t_ns for each in times_ns for t_ns in each)
    packing.write(tmp_path / "rows", schema.REQUEST_ROWS_SCHEMA, [rows])
    packing.write(tmp_path / "tokens", TOKENS_SCHEMA, [tokens])
    back = packing.joined(
        read(tmp_path / "rows", schema.REQUEST_ROWS_SCHEMA), read(tmp_path / "tokens", TOKENS_SCHEMA)
    )
    assert back.schema == REQUESTS_SCHEMA
    assert back["token_ts_ns"].to_pylist() == [[packing.whole_us(t) for t in each] for each in times_ns]
    assert back.drop_columns(["token_ts_ns"]) == table.drop_columns(["token_ts_ns"])


def test_an_arrival_of_tokens_takes_half_a_byte(tmp_path: Path) -> None:
    """As a list of times each takes 2.4 bytes and more."""
    _, tokens = packing.split(requests(steps_of_a_batch(200, 128, seed=3)))
    facts = packing.write(tmp_path / "tokens", TOKENS_SCHEMA, [tokens])
    assert facts.bytes < 0.5 * facts.rows
    columns = pq.ParquetFile(tmp_path / "tokens").metadata.row_group(0)
    assert {columns.column(i).compression for i in range(3)} == {"ZSTD"}


@pytest.mark.parametrize("owner", [-1, 2, 2**31 - 1])
def test_tokens_of_nobody_are_refused(owner: int) -> None:
    rows, tokens = packing.split(requests([[SENT_NS], [SENT_NS]]))
    tokens = tokens.set_column(1, TOKENS_SCHEMA.field(1), pa.array([0, owner], pa.int32()))
    with pytest.raises(ValueError, match="tokens of a request that there is not"):
        packing.joined(rows, tokens)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.set_column(0, t.field(0), pa.array([2**63 - 1] * len(t))),
        lambda t: t.set_column(1, t.field(1), pa.array([2**62] * len(t))),
        lambda t: t.set_column(2, t.field(2), pa.nulls(len(t), pa.int32())),
        lambda t: t.set_column(1, t.field(1), pa.nulls(len(t), pa.int64())),
    ],
)
def test_differences_that_a_stranger_wrote_are_read_or_refused(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table]
) -> None:
    rows, tokens = packing.split(requests(steps_of_a_batch(3, 2, seed=4)))
    packed = packing.Packer(TOKENS_SCHEMA).pack(tokens)
    pq.write_table(change(packed), tmp_path / "tokens")
    try:
        found: Any = packing.joined(rows, read(tmp_path / "tokens", TOKENS_SCHEMA))
    except ValueError:
        return
    assert len(found) == len(rows)
