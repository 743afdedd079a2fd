"""`wattcount predict`: what settings take that nobody measured, from a CSV file or from options."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from wattcount.cli.sources import results_of
from wattcount.errors import EXIT_OK, NotStartedError, one_line
from wattcount.files import replacing
from wattcount.fitting.predicting import FIGURES, LEAST_ROWS, Prediction, Predictor
from wattcount.fitting.rows import rows
from wattcount.importers.table import Row, read_rows
from wattcount.prediction.names import find_dtype, find_gpu, find_method, find_model
from wattcount.prediction.setting import Abstained, PredictionSetting
from wattcount.report.units import significant
from wattcount.result import Result
from wattcount.result.host_part import PER_TOKEN, WATTS
from wattcount.result.table import write_table

NEEDED = ("model", "gpu")
"""Columns that a file must have; the others may be left out, and so may their values."""
WHOLE = ("num_gpus", "tensor_parallel", "max_num_seqs", "concurrency", "input_tokens", "output_tokens")
COLUMNS = (*NEEDED, "num_gpus", "tensor_parallel", "dtype", "quantization", "max_num_seqs", "concurrency", "rate_rps", "input_tokens", "output_tokens", "enforce_eager", "kv_cache_dtype")  # fmt: skip
"""Columns that are understood; others are handed on."""
PREDICTED = (*(f"{name}{end}" for name in FIGURES for end in ("", "_p05", "_p95")), "basis")
"""Columns that are added."""
KEYS = dict(
    zip(
        FIGURES,
        (WATTS, "latency/tpot_p50_ms", "throughput/output_tokens_per_s", PER_TOKEN),
        strict=True,
    )
)
"""Of a result, for each figure that is predicted."""
PARQUET = ".parquet"
"""Ending of a file that is written as a table of results."""
MOST = 10**9
"""Largest count of anything."""
WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="SOURCE", nargs="+", required=True, help="what to learn from: a data set, folders with records, tables")  # fmt: skip
    parser.add_argument("--csv", type=Path, metavar="FILE", help="settings, a row each; docs/prediction.md has the columns")  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="where the rows go with what was predicted (the terminal); FILE.parquet: as results, which the other commands read")  # fmt: skip
    parser.add_argument("--model", help="option, hub id, or path of a config.json")
    parser.add_argument("--gpu", help="option or name")
    parser.add_argument("--num-gpus", type=str, default="", metavar="N")
    parser.add_argument("--tensor-parallel", type=str, default="", metavar="N")
    parser.add_argument("--dtype", default="")
    parser.add_argument("--quantization", default="")
    parser.add_argument("--max-num-seqs", type=str, default="", metavar="N")
    parser.add_argument("--concurrency", type=str, default="", metavar="N", help="requests always in flight")
    parser.add_argument("--rate-rps", type=str, default="", metavar="R", help="requests/s that arrive")
    parser.add_argument("--input-tokens", type=str, default="512", metavar="N")
    parser.add_argument("--output-tokens", type=str, default="128", metavar="N")
    parser.add_argument("--json", action="store_true", help="of one setting: everything as JSON")


def main(args: argparse.Namespace) -> int:
    """0 also where rows abstain: that is an answer."""
    if (args.csv is None) == (args.model is None or args.gpu is None):
        raise NotStartedError("give either --csv FILE, or one setting by --model and --gpu")
    table = _read(args.csv) if args.csv is not None else [_of_options(args)]
    settings = [_setting(row) for row in table]
    learned = rows(results_of(args.data))
    if len(learned) < LEAST_ROWS:
        raise NotStartedError(
            f"{' '.join(map(str, args.data))}: {len(learned)} settings can be learned from, and {LEAST_ROWS} are needed"
        )
    predictions = Predictor.of(learned).predict(settings)
    if args.csv is None and args.output is None:
        _show(predictions[0], args.json)
        return EXIT_OK
    if args.output is not None and args.output.suffix == PARQUET:
        write_table(_as_results(table, settings, predictions), args.output)
        _say(args.output, predictions, "messages")
        return EXIT_OK
    text = _written(table, predictions)
    if args.output is None:
        sys.stdout.write(text)
        return EXIT_OK
    try:
        with replacing(args.output) as file:
            file.write(text.encode())
    except OSError as error:
        raise NotStartedError(f"{args.output} cannot be written: {one_line(error)}") from error
    _say(args.output, predictions, "basis")
    return EXIT_OK


def _say(path: Path, predictions: Sequence[Prediction], column: str) -> None:
    said = sum(not one.abstained for one in predictions)
    others = "" if said == len(predictions) else f"; the others say why in `{column}`"
    print(f"{path}: {said} of {len(predictions)} settings predicted{others}")


def _as_results(
    table: Sequence[Row],
    settings: Sequence[PredictionSetting | Abstained],
    predictions: Sequence[Prediction],
) -> list[Result]:
    """In the order of the table; what abstains is a row without figures that says why."""
    found = []
    for row, setting, one in zip(table, settings, predictions, strict=True):
        cfg = None if isinstance(setting, Abstained) else setting.as_run()
        if cfg is None or one.abstained:
            model, gpu = (row.maybe_text(name) or "-" for name in NEEDED)
            found.append(Result.not_predicted(model, gpu, one.basis, cfg))
        else:
            keys = {KEYS[name]: interval for name, interval in one.figures.items()}
            found.append(
                Result.predicted(
                    cfg,
                    {key: interval.value for key, interval in keys.items()},
                    {key: (interval.p05, interval.p95) for key, interval in keys.items()},
                    one.basis,
                )
            )
    return found


def _read(path: Path) -> list[Row]:
    return read_rows(path, "table of settings", NEEDED)


def _of_options(args: argparse.Namespace) -> Row:
    values = {name: str(getattr(args, name, "") or "") for name in COLUMNS}
    return Row(Path("options"), "the command line", values)


def _setting(row: Row) -> PredictionSetting | Abstained:
    """Raises NotStartedError, with the line, for what is no value at all; a value that is not known abstains."""
    counts = {name: _count(row, name) for name in WHOLE}
    rate = row.maybe_number("rate_rps", MOST)
    if rate is not None and rate <= 0:
        raise row.wrong(f"rate_rps is {rate:g}; give requests/s above 0, or nothing")
    eager = (row.maybe_text("enforce_eager") or "").strip().lower()
    if eager not in WORDS:
        raise row.wrong(f"enforce_eager is {eager!r}; give true or false")
    words = {name: row.maybe_text(name) or "" for name in (*NEEDED, "dtype", "quantization")}
    cache = (row.maybe_text("kv_cache_dtype") or "auto").lower()
    try:
        for name in NEEDED:
            if not words[name].strip():
                raise Abstained(f"no {name} is given")
        model, gpu = find_model(words["model"]), find_gpu(words["gpu"])
        dtype, method = find_dtype(words["dtype"])
        method = find_method(words["quantization"]) or method
        inputs, outputs = counts["input_tokens"], counts["output_tokens"]
        if inputs is None or outputs is None:
            raise Abstained("input_tokens and output_tokens are needed")
        flight = counts["concurrency"]
        if flight is None and rate is None:
            flight = counts["max_num_seqs"]
        if flight is None and rate is None:
            raise Abstained("concurrency, rate_rps or max_num_seqs is needed")
        parallel = counts["tensor_parallel"]
        gpus = counts["num_gpus"] or parallel or 1
        return PredictionSetting(
            model=model,
            gpu=gpu,
            num_gpus=gpus,
            tensor_parallel=parallel or gpus,
            dtype=dtype,
            quantization=method,
            max_num_seqs=counts["max_num_seqs"],
            enforce_eager=WORDS[eager],
            kv_cache_dtype=cache,
            concurrency=flight,
            rate_rps=rate,
            input_tokens=inputs,
            output_tokens=outputs,
        )
    except Abstained as reason:
        return reason


def _count(row: Row, name: str) -> int | None:
    """A count; mean numbers of requests are rounded."""
    value = row.maybe_number(name, MOST)
    if value is None:
        return None
    if round(value) < 1:
        raise row.wrong(f"{name} is {value:g}; give 1 or more, or nothing")
    return round(value)


def _written(table: Sequence[Row], predictions: Sequence[Prediction]) -> str:
    given = [name for name in table[0].cells if name not in PREDICTED]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*given, *PREDICTED])
    for row, prediction in zip(table, predictions, strict=True):
        writer.writerow([*(row.cells[name] for name in given), *_cells(prediction)])
    return out.getvalue()


def _cells(prediction: Prediction) -> list[str]:
    return [*(_figure(value) for value in _flat(prediction).values()), prediction.basis]


def _flat(prediction: Prediction) -> Mapping[str, float | None]:
    flat: dict[str, float | None] = {}
    for name in FIGURES:
        interval = prediction.figures.get(name)
        flat[name] = None if interval is None else interval.value
        flat[f"{name}_p05"] = None if interval is None else interval.p05
        flat[f"{name}_p95"] = None if interval is None else interval.p95
    return flat


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _show(prediction: Prediction, as_json: bool) -> None:
    if as_json:
        figures = {
            name: None if value is None else float(_figure(value))
            for name, value in _flat(prediction).items()
        }
        print(json.dumps({"evidence": "predicted", **figures, "basis": prediction.basis}, indent=2))
        return
    for name, one in prediction.figures.items():
        low, high = significant(one.p05, 3), significant(one.p95, 3)
        print(f"{name:<22} {significant(one.value, 3):>8}   90 %: {low} to {high}")
    print(prediction.basis)
