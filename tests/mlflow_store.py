"""An empty MLflow database, made once and copied: making one takes MLflow seconds."""

import functools
import tempfile
from pathlib import Path

from wattcount.config.schema import TrackingConfig
from wattcount.tracking.connection import connected, resolve_uri


@functools.cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        uri = resolve_uri(TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db"))
        with connected(uri, ""):
            return Path(folder, "mlflow.db").read_bytes()


def make_store(home: Path) -> None:
    """Wattcount's default store in `home` ($WATTCOUNT_HOME), without an experiment of its own yet."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "mlflow.db").write_bytes(_empty())
