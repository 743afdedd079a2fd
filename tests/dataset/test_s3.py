"""A data set on a real S3 server on this machine, which is also made to fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.dataset.conftest import DAY
from wattcount.dataset.query import query
from wattcount.dataset.storage import StorageError, open_storage
from wattcount.dataset.store import Dataset, Submission
from wattcount.errors import NotStartedError, RunFailedError
from wattcount.result import Result

pytestmark = [
    pytest.mark.slow,
    # Of botocore and moto themselves.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
moto_server = pytest.importorskip("moto.server", reason="moto is not installed: make setup-all")
from werkzeug.serving import make_server  # noqa: E402 - moto brings it

pytest.importorskip("s3fs", reason="s3fs is not installed: make setup-all")

URL = "s3://bucket/open/ds"
Make = Callable[..., Submission]


class Gate:
    """Stands before the server. `fails(method)` says which requests it answers with an error, and `after`: once they were done."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.fails: Callable[[str], bool] = lambda method: False  # noqa: ARG005
        self.after = False

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if not self.fails(environ["REQUEST_METHOD"]):
            return self._server(environ, start_response)  # type: ignore[no-any-return]
        if self.after:
            b"".join(self._server(environ, lambda *_: None))
        start_response("503 Service Unavailable", [("Content-Length", "0")])
        return []


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(moto_server.DomainDispatcherApplication(moto_server.create_backend_app))
    server = make_server("127.0.0.1", 0, gate, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    where = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", where)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    urlopen(Request(f"{where}/moto-api/reset", method="POST")).close()
    urlopen(Request(f"{where}/bucket", method="PUT")).close()
    yield gate
    server.shutdown()
    server.server_close()
    thread.join()


def ids(dataset: Dataset) -> list[str]:
    return sorted(dataset.table(dataset.latest(), ["result_id"])["result_id"].to_pylist())


@pytest.mark.usefixtures("gate")
def test_the_whole_life_of_a_data_set(submission: Make, measured: list[Result], tmp_path: Path) -> None:
    dataset = Dataset.init(URL, "test", DAY)
    (tmp_path / "bundle").write_bytes(b"bundle" * 100_000)
    assert dataset.add(submission(0, 3, bundle=tmp_path / "bundle"), DAY).changed
    assert not dataset.add(submission(0, 3), DAY).changed
    assert dataset.add(submission(10, 2), DAY).changed
    assert [r.metrics for r in dataset.results()] == [r.metrics for r in (*measured[:3], *measured[10:12])]
    assert query(dataset, "SELECT count(*) AS n FROM results")["n"].to_pylist() == [5]
    gone = ids(dataset)[0]
    dataset.remove(gone, "why", DAY)
    assert gone not in ids(Dataset.open(URL))
    assert len(dataset.results(dataset.version(3))) == 5
    storage = open_storage(URL)
    assert storage.names("staged") == []
    assert json.loads(storage.read("latest.json"))["version"] == 4
    with pytest.raises(NotStartedError, match="already"):
        Dataset.init(URL, "test", DAY)


@pytest.mark.usefixtures("gate")
def test_a_file_is_created_by_one_of_many() -> None:
    won: list[int] = []

    def create(number: int) -> None:
        storage = open_storage(URL)
        try:
            storage.create("versions/1", str(number).encode())
            won.append(number)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert open_storage(URL).read("versions/1") == str(won[0]).encode()


@pytest.mark.usefixtures("gate")
def test_adds_at_once_all_arrive(submission: Make) -> None:
    Dataset.init(URL, "test", DAY)
    failed: list[BaseException] = []

    def add(first: int) -> None:
        try:
            Dataset.open(URL).add(submission(first, 2), DAY)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=add, args=(first,)) for first in (0, 4, 8, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    latest = Dataset.open(URL).latest()
    assert (latest.number, latest.num_results) == (4, 6)
    assert len(Dataset.open(URL).results()) == 6


@pytest.mark.parametrize("after", [False, True])
def test_a_server_that_fails_in_the_middle(gate: Gate, submission: Make, after: bool) -> None:
    """Each request that changes something is refused in turn, with all after it; `after`: it was done, and the answer is lost."""
    outcomes = set()
    for fails_at in range(100):
        url = f"{URL}-{fails_at}"
        Dataset.init(url, "test", DAY)
        seen: list[str] = []

        def fails(method: str, seen: list[str] = seen, fails_at: int = fails_at) -> bool:
            if method in ("PUT", "POST", "DELETE"):
                seen.append(method)
            return len(seen) > fails_at

        gate.fails, gate.after, said = fails, after, ""
        try:
            Dataset.open(url).add(submission(0, 2), DAY)
            outcome = "done"
        except NotStartedError as error:
            outcome, said = "nothing", str(error)
        except RunFailedError as error:
            outcome, said = "unknown" if "not known" in str(error) else "whole", str(error)
        assert "\n" not in said
        gate.fails = lambda method: False  # noqa: ARG005
        number = Dataset.open(url).latest().number
        assert number == {"nothing": 1, "whole": 2, "done": 2}.get(outcome, number)
        assert len(Dataset.open(url).results()) == (0 if number == 1 else 2)
        Dataset.open(url).add(submission(0, 2), DAY)
        assert len(Dataset.open(url).results()) == 2
        outcomes.add(outcome)
        if outcome == "done":
            break
    assert outcomes >= {"nothing", "whole", "done"}


@pytest.mark.usefixtures("gate")
def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StorageError, match=r"cannot read latest\.json"):
        Dataset.open(URL)
