"""`wattcount log PATH`, `wattcount log --sweep NAME`: records that are not in MLflow yet."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from wattcount.cli.records import WHAT, add_records_dir, find_records
from wattcount.cli.sources import is_table, results_of
from wattcount.config.schema import TrackingConfig
from wattcount.config.validation import usable_tags
from wattcount.errors import EXIT_FAILED, EXIT_OK, NotStartedError, WattcountError, one_line
from wattcount.masking import has_secret
from wattcount.records import Record
from wattcount.records.schema import Evidence
from wattcount.report.labels import short_name
from wattcount.result import Result

RUN_NAME_CHARACTERS = 250
"""Length of a run's name that is taken from a record [characters]: that of MLflow's keys."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="WHICH", nargs="*", help=WHAT)
    parser.add_argument("--sweep", metavar="NAME", help="all records of a sweep, below a run of its own")
    add_records_dir(parser)
    parser.add_argument(
        "--uri",
        metavar="URI",
        help="tracking URI; else $MLFLOW_TRACKING_URI, else sqlite; never what a record names",
    )
    parser.add_argument(
        "--experiment",
        metavar="NAME",
        default=TrackingConfig.experiment,
        help="MLflow experiment (%(default)s); never what a record names",
    )
    parser.add_argument("--force", action="store_true", help="log again what is already there")
    parser.add_argument(
        "--pending",
        action="store_true",
        help="of --sweep: only what could not be logged while it went on; nothing while a run of this host is in its window",
    )
    parser.add_argument("--limit-s", metavar="S", type=float, help="begin nothing more after S seconds")


def main(args: argparse.Namespace) -> int:
    """Logs every record. Records that fail are named, and the others are logged all the same."""
    if bool(args.path) == bool(args.sweep):
        raise NotStartedError("give PATHs of records or --sweep NAME, one of the two")
    if args.pending and not args.sweep:
        raise NotStartedError("--pending is of --sweep NAME")
    logging = _Logging(args)
    if args.sweep:
        _log_sweep(args, logging)
    else:
        tables = [path for path in args.path if is_table(path)]
        for result in _predicted(tables):
            logging.predicted(result)
        if others := [path for path in args.path if path not in tables]:
            for path in find_records(others, records_dir=args.records_dir).paths:
                logging.record(path)
    for uri, sweep_run_id in logging.uris.items():
        from wattcount.tracking import ways_to_see

        print("\n".join(ways_to_see(uri, args.experiment, sweep_run_id)))
    return EXIT_FAILED if logging.failed else EXIT_OK


class _Logging:
    """What was logged where, and what failed."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._end_s = float("inf") if args.limit_s is None else time.monotonic() + args.limit_s
        self.uris: dict[str, str | None] = {}
        """Stores in which something was logged, each with the id of the sweep's own run there."""
        self.failed = 0
        self._named: set[tuple[str | None, str | None]] = set()
        """Stores and experiments that records name and that are not used, which has been said."""

    def left_s(self) -> float:
        return self._end_s - time.monotonic()

    def record(
        self, path: Path, sweep: str | None = None, folder: Path | None = None
    ) -> WattcountError | None:
        """Logs a record. Returns the error, which was printed; None: it is logged."""
        from wattcount.tracking import log_record, resolve_uri, sweep_run
        from wattcount.tracking.connection import LIMIT_S

        limit_s = min(LIMIT_S, max(self.left_s(), 1.0))
        try:
            recorded = _recorded(path)
            tracking = tracking_of(recorded, self._args)
            self._say_what_is_not_used(path, recorded, tracking)
            parent = None
            if sweep is not None and folder is not None:
                parent = sweep_run(sweep, folder, tracking, limit_s=limit_s)
            run_id = log_record(path, tracking, force=self._args.force, parent=parent, limit_s=limit_s)
        except WattcountError as error:
            self.fail(error)
            return error
        self.uris.setdefault(resolve_uri(tracking))
        print(f"{run_id}  {path}", flush=True)
        return None

    def predicted(self, result: Result) -> None:
        """Logs a predicted row."""
        from wattcount.tracking import log_predicted, resolve_uri

        tracking = TrackingConfig(uri=self._args.uri, experiment=self._args.experiment)
        try:
            run_id = log_predicted(result, tracking, force=self._args.force)
        except WattcountError as error:
            self.fail(error)
            return
        self.uris.setdefault(resolve_uri(tracking))
        print(f"{run_id}  {short_name(result)}", flush=True)

    def _say_what_is_not_used(
        self, path: Path, recorded: Mapping[str, object], tracking: TrackingConfig
    ) -> None:
        named = {
            key: one_line(recorded[key], 200)
            for key in ("uri", "experiment")
            if recorded.get(key) is not None
        }
        other = {key: value for key, value in named.items() if value != getattr(tracking, key)}
        if has_secret(str(recorded.get("uri"))):  # earlier versions kept it
            print(
                f"wattcount: {path} holds the password of its tracking.uri, and so does its copy in MLflow: change the password",
                file=sys.stderr,
            )
        what = (other.get("uri"), other.get("experiment"))
        if other and what not in self._named:
            self._named.add(what)
            keys = " and ".join(f"tracking.{key}={value}" for key, value in other.items())
            flags = " and ".join(f"--{key}" for key in other)
            print(
                f"wattcount: {path} names {keys}, which is not used: a record may be anyone's; to log there give {flags}",
                file=sys.stderr,
            )

    def fail(self, error: WattcountError) -> None:
        self.failed += 1
        print(f"wattcount: {error}", file=sys.stderr)


def _predicted(tables: Sequence[str]) -> list[Result]:
    """The predicted rows of tables. Raises NotStartedError where there is none: what was measured has a record, which is logged whole."""
    found = results_of(tables)
    rows = [result for result in found if result.evidence is Evidence.PREDICTED and result.valid]
    if tables and not rows:
        raise NotStartedError(
            f"{' '.join(tables)}: no predicted row; of what was measured give the records, which are logged whole"
        )
    if len(rows) < len(found):
        print(
            f"wattcount: {len(found) - len(rows)} rows are no prediction, and are left out", file=sys.stderr
        )
    return rows


def _log_sweep(args: argparse.Namespace, logging: _Logging) -> None:
    from wattcount.sweep.ledger import read_state, sweep_folder, sweeps
    from wattcount.sweep.mlflow_log import logged, pending, wait_for_quiet
    from wattcount.sweep.status import sweep_page
    from wattcount.tracking import TrackingError, log_sweep, resolve_uri

    if args.sweep not in sweeps(args.records_dir):
        raise NotStartedError(
            f"no sweep {args.sweep!r} in {args.records_dir}; wattcount status --all lists them"
        )
    folder = sweep_folder(args.records_dir, args.sweep)
    state = read_state(args.records_dir, args.sweep)
    records: Sequence[Path] = [Path(record) for record in state.records if Path(record).is_dir()]
    if args.pending:
        records = pending(folder)
    for record in records:
        if args.pending and not wait_for_quiet(logging.left_s()):
            break
        if logging.left_s() <= 0:
            break
        error = logging.record(record, args.sweep, folder)
        if not isinstance(error, TrackingError):
            logged(folder, record)  # or damaged, which no further try will change
        elif args.pending:
            return  # a store that does not answer is not asked for every record
    # The counts last, so that they are those of the records above.
    if args.pending and not wait_for_quiet(max(logging.left_s(), 0.0)):
        return
    tracking = TrackingConfig(uri=args.uri, experiment=args.experiment)
    try:
        run_id = log_sweep(
            sweep_page(read_state(args.records_dir, args.sweep), args.records_dir),
            tracking,
            limit_s=min(300.0, max(logging.left_s(), 30.0)),
        )
    except TrackingError as error:
        logging.fail(error)
        return
    logging.uris[resolve_uri(tracking)] = run_id
    print(f"{run_id}  sweep {args.sweep}")


def _recorded(path: Path) -> dict[str, object]:
    """The group `tracking` of a record, which anyone may have written. Raises `WattcountError` where `path` is no record."""
    recorded = Record.open(path).info.config.get("tracking")
    return recorded if isinstance(recorded, dict) else {}


def tracking_of(recorded: Mapping[str, object], args: argparse.Namespace) -> TrackingConfig:
    """Where to log, by the command line and the environment, with the name and the tags of the record."""
    tags, name = recorded.get("tags"), recorded.get("run_name")
    return TrackingConfig(
        uri=args.uri,
        experiment=args.experiment,
        run_name=one_line(name, RUN_NAME_CHARACTERS) if isinstance(name, str) and name.strip() else None,
        tags=usable_tags(tags) if isinstance(tags, dict) else {},
    )
