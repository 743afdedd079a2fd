"""`wattcount log PATH`: records that are not in MLflow yet."""

from __future__ import annotations

import argparse
import sys

from wattcount.cli.records import find_records
from wattcount.config.schema import TrackingConfig
from wattcount.errors import EXIT_FAILED, EXIT_OK, WattcountError
from wattcount.record import Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="PATH", nargs="+", help="a run record, or a folder with records below it"
    )
    parser.add_argument(
        "--uri", help="tracking URI; else the record's own, else $MLFLOW_TRACKING_URI, else sqlite"
    )
    parser.add_argument("--experiment", help="MLflow experiment; else the record's own")
    parser.add_argument("--force", action="store_true", help="log again what is already there")


def main(args: argparse.Namespace) -> int:
    """Logs every record; those that fail are named, the others logged all the same."""
    from wattcount.tracking import log_record, resolve_uri, ui_command

    paths = find_records(args.path)
    failed = 0
    uris: dict[str, None] = {}
    for path in paths:
        try:
            tracking = _tracking(Record.open(path).info.config.get("tracking") or {}, args)
            run_id = log_record(path, tracking, force=args.force)
        except WattcountError as error:
            failed += 1
            print(f"wattcount: {error}", file=sys.stderr)
            continue
        uris[resolve_uri(tracking)] = None
        print(f"{run_id}  {path}")
    for uri in uris:
        print(f"see them with: {ui_command(uri)}")
    return EXIT_FAILED if failed else EXIT_OK


def _tracking(recorded: dict[str, object], args: argparse.Namespace) -> TrackingConfig:
    tags = recorded.get("tags")
    name = recorded.get("run_name")
    return TrackingConfig(
        uri=args.uri or (str(recorded["uri"]) if recorded.get("uri") else None),
        experiment=args.experiment or str(recorded.get("experiment") or TrackingConfig.experiment),
        run_name=str(name) if name else None,
        tags={str(k): str(v) for k, v in tags.items()} if isinstance(tags, dict) else {},
    )
