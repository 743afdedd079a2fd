"""The pages in a real browser: opened from disk, with a keyboard, at the widths of a phone and of a desk, by what strangers wrote."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from synthetic_record import SyntheticRun, steady_requests

from tests.site.sample import data_of, result, source
from wattcount.metrics import write
from wattcount.records import Record
from wattcount.records.schema import Evidence
from wattcount.result import Result
from wattcount.site.builder import build
from wattcount.site.pages import PAGES

pytestmark = [pytest.mark.slow, pytest.mark.browser]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WIDTHS = (360, 1440)
"""A phone and a desk [pixels]."""
HOSTILE = "<script>window.hit = 1</script><img src=x onerror='window.hit=1'>\"'\u202e\x1b[31m" + "y" * 10_000
DASH = "\u2013"
"""Between the ends of a range."""
PER_TOKEN = "energy_gpu_j_per_output_token"


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records") / "point" / "r0-x"
    run = SyntheticRun(
        requests=steady_requests(lag_ms=2000.0), power_w=lambda s: 300.0 if 40 < s < 100 else 100.0
    )
    write(run.write(folder))
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, record: Path) -> Path:
    """Servers at three rates, a run that has a record, and a result of a stranger."""
    measured = Result.of(Record.open(record))
    out = tmp_path_factory.mktemp("site")
    stranger = result(HOSTILE, per_token_j=0.1, by=HOSTILE, levers=(HOSTILE,), gpus=(HOSTILE,))
    build(source(measured, stranger), out)
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is here: apt-get install chromium")
    api = pytest.importorskip(
        "playwright.sync_api", reason="no playwright is here: pip install 'wattcount[browser-tests]'"
    )
    with api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page of the site in the browser; `errors`: what its scripts threw or the console said; `asked`: all addresses that it asked for."""

    def __init__(self, browser: Any, site: Path, width: int = 1440, dark: bool = False) -> None:
        self.site = site
        self.context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            accept_downloads=True,
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(120_000)
        self.errors: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console", lambda message: self.errors.append(message.text) if message.type == "error" else None
        )
        self.page.on("request", lambda request: self.asked.append(request.url))

    def go(self, page: str, state: str = "") -> Any:
        """Opens a page and waits until its pictures are drawn, where it has any."""
        self.page.goto(f"file://{self.site}/{page}.html{state}")
        if self.page.query_selector("script[src='static/data.js']"):
            self.page.wait_for_selector("body[data-ready]")
        if page == "run" and "id=" in state:
            self.page.wait_for_selector("body[data-drawn]")
        if page == "load-curves":
            self.page.wait_for_selector("#board[data-drawn]")
        return self.page


@pytest.fixture
def opened(browser: Any, site: Path) -> Iterator[Opened]:
    made = Opened(browser, site)
    yield made
    made.context.close()


def ids_of(site: Path, name: str) -> list[str]:
    return list(data_of(site / "data" / f"{name}.js")["values"]["id"])


def states(site: Path, record: Path) -> dict[str, str]:
    """What each page is opened with, so that there is something on it."""
    ids = ids_of(site, "settings")
    run = Record.open(record).info.run_id
    return {
        "run": f"#id={run}",
        "compare": f"#id={ids[0]}&id={ids[1]}",
        "setting": f"#id={ids[0]}",
        "model": "#id=llama3_8b",
        "gpu": "#id=NVIDIA%20H200",
    }


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", [page.name for page in PAGES])
def test_every_page_opens_from_disk_without_a_network_and_fits(
    browser: Any, site: Path, record: Path, page: str, width: int
) -> None:
    opened = Opened(browser, site, width, dark=width == WIDTHS[0])
    shown = opened.go(page, states(site, record).get(page, ""))
    shown.wait_for_load_state("load")
    assert opened.errors == []
    assert [url for url in opened.asked if not url.startswith(("file://", "data:", "blob:"))] == []
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    opened.context.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", [page.name for page in PAGES])
def test_axe_finds_nothing(browser: Any, site: Path, record: Path, page: str, width: int) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python", reason="no axe is here: pip install 'wattcount[browser-tests]'"
    )
    script = (Path(axe.__file__).parent / "axe.min.js").read_text()
    opened = Opened(browser, site, width, dark=width == WIDTHS[0])
    shown = opened.go(page, states(site, record).get(page, ""))
    shown.evaluate(script)
    found = shown.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    told = [(one["id"], [node["html"][:200] for node in one["nodes"]][:3]) for one in found["violations"]]
    assert told == []
    opened.context.close()


# -- a run


def test_a_run_says_what_it_did_at_a_second(opened: Opened, record: Path) -> None:
    page = opened.go("run", f"#id={Record.open(record).info.run_id}")
    page.fill("#second", "12")
    told = page.inner_text("#told")
    assert told.startswith("At second 12.00, in the window")
    assert "300 W" in told
    assert page.locator("#power svg line[stroke-dasharray='3,2']").count() > 0, "the second is marked"
    assert "at=12" in page.url
    page.reload()
    page.wait_for_selector("body[data-drawn]")
    assert page.inner_text("#told") == told


def test_a_run_is_zoomed_with_the_keyboard_and_the_address_has_it(opened: Opened, record: Path) -> None:
    page = opened.go("run", f"#id={Record.open(record).info.run_id}")
    page.wait_for_selector("#power svg")
    before = page.inner_html("#power svg")
    page.focus("#times button[aria-label='Show the phase window']")
    page.keyboard.press("Enter")
    assert "from=-3" in page.url
    assert "to=63" in page.url
    assert page.inner_html("#power svg") != before
    page.focus("#times button[aria-label='Show the whole run']")
    page.keyboard.press("Enter")
    assert "from=" not in page.url


def test_a_run_has_its_findings_with_what_to_do_and_every_figure(opened: Opened, record: Path) -> None:
    page = opened.go("run", f"#id={Record.open(record).info.run_id}")
    findings = page.inner_text("#findings")
    assert "generator_lagging" in findings
    assert "To do:" in findings
    assert page.locator("#figures tbody tr").count() == 100  # the first part of the table
    page.fill("#figures input", "idle_loaded_after_w")
    row = page.locator("#figures tbody tr").all_inner_texts()[0]
    assert "100.0 W" in row
    assert "after the drain" in row


def test_a_run_that_is_not_there_says_so(opened: Opened) -> None:
    page = opened.go("run", "#id=..%2F..%2Fdata%2Fmeta")
    assert "There is no run with this id here" in page.inner_text("#lead")
    assert not [url for url in opened.asked if "/runs/" in url]


# -- load curves


def test_the_bounds_of_an_slo_move_the_good_requests(opened: Opened) -> None:
    page = opened.go("load-curves")
    assert f"98{DASH}100 %" in page.inner_text(".points tbody")
    drawn = page.get_attribute("#board", "data-drawn")
    page.fill("input[aria-label='SLO of TTFT in ms']", "50")
    page.keyboard.press("Tab")
    page.wait_for_selector(f"#board:not([data-drawn='{drawn}'])")
    assert "ttft=50" in page.url
    assert f"49{DASH}95 %" in page.inner_text(".points tbody")


def test_the_share_of_good_requests_is_that_of_the_study(opened: Opened) -> None:
    from wattcount.config.schema import SloConfig
    from wattcount.study.service import attained

    page = opened.go("load-curves")
    run = result()
    for ttft_ms, tpot_ms in ((500.0, 50.0), (50.0, 50.0), (70.0, 7.5), (10.0, 1.0)):
        point = {
            "percentiles": {
                name: [run.value(f"latency/{name}_p{p}_ms") for p in (50, 95, 99)]
                for name in ("ttft", "tpot", "e2e")
            }
        }
        found = page.evaluate(
            "([point, bounds]) => W.goodShare(point, bounds)", [point, {"ttft": ttft_ms, "tpot": tpot_ms}]
        )
        told = attained(run, SloConfig(ttft_ms=ttft_ms, tpot_ms=tpot_ms))
        assert told is not None
        assert (found["low"], found["high"]) == (pytest.approx(told.low), pytest.approx(told.high))


def test_requests_are_counted_where_they_are_known(opened: Opened) -> None:
    page = opened.go("load-curves")
    point = {
        "of": 4,
        "requests": {"ttft": [10, 20, 30, -1], "tpot": [1, 1, None, None], "e2e": [50, 60, 30, -1]},
        "percentiles": {},
    }
    assert page.evaluate("(point) => W.goodShare(point, { ttft: 25, tpot: 5 }).low", point) == 0.5
    assert page.evaluate("(point) => W.goodShare(point, { ttft: 35, tpot: 5 }).low", point) == 0.75


# -- one's own runs


def test_an_own_run_is_drawn_over_the_public_ones_and_sent_nowhere(
    opened: Opened, site: Path, record: Path
) -> None:
    ids = ids_of(site, "settings")
    page = opened.go("compare", f"#id={ids[0]}")
    page.set_input_files("#own-files", [record / "metrics.json", record / "run.json"])
    page.wait_for_selector("#board svg")
    assert "own: llama3_8b on NVIDIA H200, server 4 requests/s" in page.inner_text("#choose")
    assert "Nothing was sent anywhere" in page.inner_text("#own")
    assert not [url for url in opened.asked if not url.startswith(("file://", "data:", "blob:"))]
    page = opened.go("load-curves")  # it lasts as long as the tab
    assert "own: llama3_8b" in page.inner_text(".points tbody")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "a.csv",
            f'setting,{PER_TOKEN.replace("energy_", "energy/")},rate_rps\r\n"mine, fast",0.25,4\r\n',
            "own: mine, fast",
        ),
        ("a.json", json.dumps([{"setting": "mine", "energy/gpu_j_per_output_token": 0.25}]), "own: mine"),
        ("a.json", "{", "is no JSON that can be read"),
        ("a.json", "[1, 2]", "is a result with an energy. Taken are"),
        ("a.parquet", "PAR1", "it is no Parquet"),
        ("a.wattcount", "x", "it is damaged: it ends too early"),
        ("a.wattcount", "x" * 1000, "it is no Zstandard"),
        ("a.zip", "x", "Unpack it first"),
    ],
)
def test_what_is_taken_and_what_is_said_of_the_rest(
    opened: Opened, tmp_path: Path, name: str, content: str, says: str
) -> None:
    (tmp_path / name).write_text(content)
    page = opened.go("compare")
    page.set_input_files("#own-files", tmp_path / name)
    page.wait_for_function("document.querySelector('#own [role=status]').textContent !== ''")
    assert says in page.inner_text("#own")
    assert opened.errors == []


def dropped(opened: Opened, page: str, *paths: Path) -> Any:
    """The page after these files or folders were dropped on it, as a mouse does it."""
    shown = opened.go(page)
    session = opened.context.new_cdp_session(shown)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})
    shown.wait_for_function("document.querySelector('#own [role=status]').textContent !== ''")
    return shown


def test_the_folder_of_a_record_is_dropped(opened: Opened, record: Path) -> None:
    page = dropped(opened, "load-curves", record)
    assert "1 result of your own is read" in page.inner_text("#own")
    assert "own: llama3_8b on NVIDIA H200" in page.inner_text(".points tbody")
    assert opened.errors == []


def test_a_bundle_is_dropped(opened: Opened, record: Path, tmp_path: Path) -> None:
    """A tar in Zstandard, as a submission is."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(record.iterdir()):
            archive.add(path, f"records/0123456789ab/{record.name}/{path.name}")
    bundle = tmp_path / "mine.wattcount"
    bundle.write_bytes(zstandard.ZstdCompressor(level=10, write_checksum=True).compress(sink.getvalue()))
    page = dropped(opened, "compare", bundle)
    assert "own: llama3_8b on NVIDIA H200, server 4 requests/s" in page.inner_text("#own")
    assert opened.errors == []


@pytest.mark.parametrize("given", [{"compression": "zstd"}, {"compression": "snappy"}, {"compression": "zstd", "data_page_version": "2.0"}])  # fmt: skip
def test_a_table_of_results_is_dropped(opened: Opened, tmp_path: Path, given: dict[str, Any]) -> None:
    rows = [
        {"setting": '{"a": 1}', "model": "mine", "gpu": "h200", "rate_rps": rate, "status": status, "gpus": ["h200"], PER_TOKEN: value}
        for rate, value, status in ((4.0, 0.25, "valid"), (8.0, 0.125, "valid"), (16.0, None, "failed"))
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mine.parquet", **given)
    page = dropped(opened, "load-curves", tmp_path / "mine.parquet")
    page.wait_for_function(
        "document.querySelector('.points tbody').textContent.includes('own: mine on h200')"
    )
    points = [row for row in page.locator(".points tbody tr").all_inner_texts() if "own: mine" in row]
    assert [row.split("\t")[1:3] for row in points] == [["4", "250.0"], ["8", "125.0"]]
    assert opened.errors == []


def test_whatever_zstandard_and_parquet_write_is_read_as_it_was(opened: Opened) -> None:
    """Stored and packed blocks, tables of signs and states given, told and repeated, many frames; columns of each type, with gaps."""
    page = opened.go("compare")
    rng = random.Random(3)
    signs = bytes(rng.choices(range(32), weights=[2.0**-n for n in range(32)], k=300_000))
    words = b"".join(rng.choice((b"watt", b"count " * 7, rng.randbytes(3))) for _ in range(40_000))
    for content in (b"", b"a", bytes(200_000), rng.randbytes(150_000), signs, words):
        for level in (1, 3, 19):
            packed = zstandard.ZstdCompressor(level=level, write_checksum=level > 1).compress(content)
            made = page.evaluate(
                "async (text) => { const made = W.zstd(Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0)));"
                " return [made.length, [...new Uint8Array(await crypto.subtle.digest('SHA-256', made))].map((one) => one.toString(16).padStart(2, '0')).join('')]; }",
                base64.b64encode(packed + packed).decode(),
            )
            assert made == [2 * len(content), hashlib.sha256(2 * content).hexdigest()]
    table = pa.table(
        {
            "a": pa.array([None if n % 7 == 0 else n / 3 for n in range(5000)]),
            "b": pa.array([f"word {n % 50}" if n % 3 else None for n in range(5000)]),
            "c": pa.array([n * (-1) ** n for n in range(5000)], pa.int64()),
            "d": pa.array([n % 5 == 0 if n % 4 else None for n in range(5000)]),
            "e": pa.array([n * 0.5 for n in range(5000)], pa.float32()),
            "f": pa.array([f"{n} \u00e9" for n in range(5000)]),
        }
    )
    for given in ({"compression": "none", "use_dictionary": False}, {"compression": "gzip"}, {"compression": "zstd", "row_group_size": 700, "data_page_size": 512}):  # fmt: skip
        sink = io.BytesIO()
        pq.write_table(table, sink, **given)
        rows = page.evaluate(
            "(text) => W.parquet(Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0)), 1e6)",
            base64.b64encode(sink.getvalue()).decode(),
        )
        assert rows == table.to_pylist()


def test_a_damaged_bundle_is_said_to_be_one(opened: Opened) -> None:
    """Whatever byte is another: an error in words, or bytes; never a page that stands still."""
    page = opened.go("compare")
    packed = zstandard.ZstdCompressor(level=3).compress(b"".join(b"%d watt " % (n * n) for n in range(3000)))
    told = page.evaluate(
        """(text) => { const whole = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
        return Array.from({ length: whole.length }, (_, at) => { const one = whole.slice(); one[at] ^= 0x55;
          try { W.zstd(one); return "bytes"; } catch (error) { return error.message; } }); }""",
        base64.b64encode(packed).decode(),
    )
    known = re.compile(
        r"bytes|it is damaged: .*|it is no Zstandard|it needs a dictionary|it unpacks to more than .*"
    )
    assert [one for one in told if not known.fullmatch(one)] == []


def test_an_own_run_with_a_hostile_name_does_nothing(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        json.dumps([{"setting": HOSTILE, "energy/gpu_j_per_output_token": 0.25}])
    )
    page = opened.go("compare")
    page.set_input_files("#own-files", tmp_path / "a.json")
    page.wait_for_function("document.querySelector('#own li') !== null")
    assert page.evaluate("window.hit") is None
    assert len(page.inner_text("#own li")) < 300
    assert opened.errors == []


# -- the rest


def test_the_leaderboard_is_filtered_and_the_address_has_it(opened: Opened) -> None:
    page = opened.go("leaderboard", "#model=qwen3_8b")
    models = page.locator("#board tbody tr").all_inner_texts()
    assert models
    assert all("qwen3_8b" in row for row in models)
    page.keyboard.press("Tab")
    page.click("text=Clear")
    assert "model=" not in page.url
    assert page.locator("#board tbody tr").count() > len(models)


def test_rows_that_cannot_be_told_apart_share_their_place(browser: Any, tmp_path: Path) -> None:
    twin = [result("llama3_8b", "NVIDIA L4", 4.0, start, 0.9 / 2 * (1 + 0.01 * start)) for start in (0, 1)]
    build(source(*twin), tmp_path)
    opened = Opened(browser, tmp_path)
    page = opened.go("leaderboard", "#model=llama3_8b&load=server+4+requests%2Fs%2C+512%2F128+tokens")
    places = [
        row.split("\t")[1 if row.startswith("\t") else 0].strip()
        for row in page.locator("#board tbody tr").all_inner_texts()
    ]
    assert f"1{DASH}2 of 3" in " ".join(places)
    opened.context.close()


# -- what a new user asks


class Clicks:
    """A page on which every click, choice and typing is counted."""

    def __init__(self, page: Any) -> None:
        self.page, self.number = page, 0

    def click(self, selector: str) -> None:
        self.page.click(selector)
        self.number += 1

    def choose(self, key: str, text: str) -> None:
        self.page.select_option(f"select[data-key={key}]", label=text)
        self.number += 1

    def type(self, selector: str, text: str) -> None:
        self.page.fill(selector, text)
        self.number += 1


def documented() -> dict[str, int]:
    """The questions of docs/pages.md, and how many clicks each took."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "pages.md").read_text()
    return {
        question: int(number) for question, number in re.findall(r"^\| (.*\?) \|.*\| (\d+) \|$", text, re.M)
    }


def test_five_questions_are_answered_by_clicking(browser: Any, record: Path, tmp_path: Path) -> None:
    fp8 = [
        result(
            "llama3_8b", "NVIDIA H200", 4.0, start, 0.3 * (1 + 0.01 * start), levers=("fp8",), setting_key="f" * 48,
            setting={"model": {"name": "llama3_8b", "quantization": "fp8"}, "gpu": {"found_name": "NVIDIA H200"}, "engine": {"name": "vllm"}},
        )
        for start in (2, 3)
    ]  # fmt: skip
    measured = Result.of(Record.open(record))
    build(source(measured, *fp8), tmp_path)
    opened = Opened(browser, tmp_path)
    took: dict[str, int] = {}

    ask = Clicks(opened.go("index"))
    ask.click("text=What should serve my model, at my rate and latency?")
    ask.choose("model", "llama3_8b")
    ask.choose("load", "10 requests/s")
    ask.choose("bounds", "TTFT ≤ 300 ms")
    assert "NVIDIA H200" in ask.page.inner_text("#one .says strong")
    took["Cheapest GPU for a model at 10 requests/s with TTFT under 300 ms?"] = ask.number

    sure = Clicks(ask.page)
    assert re.search(
        r"IT IS THE BEST OF THESE WITH\s+\d+ % probability", ask.page.inner_text("#one .facts"), re.I
    )
    assert re.search(r"\d to \d", ask.page.inner_text("#one tbody tr"))
    took["How sure?"] = sure.number

    whence = Clicks(ask.page)
    whence.click("#one tbody a")
    ask.page.wait_for_selector("#runs tbody a")
    whence.click("#runs tbody a")
    ask.page.wait_for_selector("body[data-drawn]")
    assert ask.page.inner_text("#facts")
    took["Where does this number come from?"] = whence.number

    moment = Clicks(opened.go("index"))
    moment.click("nav >> text=Leaderboard")
    moment.page.wait_for_selector("body[data-ready]")
    moment.click(f"#board a[href='setting.html#id={(measured.setting_key or '')[:12]}']")
    moment.click(f"#runs a[href='run.html#id={measured.run_id}']")
    moment.page.wait_for_selector("body[data-drawn]")
    moment.type("#second", "12")
    assert "300 W" in moment.page.inner_text("#told")
    took["What did that run do at second 12?"] = moment.number

    worth = Clicks(opened.go("index"))
    worth.click("text=Is FP8, a larger batch or a second GPU worth it?")
    worth.page.wait_for_selector("table[data-csv^=levers] tbody tr")
    (row,) = [row for row in worth.page.locator("tbody tr").all_inner_texts() if row.startswith("fp8")]
    assert re.search(r"-3\d\.\d %.*saves", row.replace("\n", " "))
    took["Is FP8 worth it?"] = worth.number

    assert opened.errors == []
    assert took == documented()
    opened.context.close()


def test_what_is_predicted_stands_apart(browser: Any, tmp_path: Path) -> None:
    predicted = result(
        "llama3_8b", "NVIDIA B200", 4.0, per_token_j=0.1, evidence=Evidence.PREDICTED, setting_key="e" * 48,
        run_id="predicted-1", energy_basis=("9 settings of 3 models",),
        metrics={"energy/gpu_j_per_output_token": 0.1, "energy/gpu_j_per_output_token_p05": 0.08, "energy/gpu_j_per_output_token_p95": 0.13},
    )  # fmt: skip
    build(source(predicted), tmp_path)
    opened = Opened(browser, tmp_path)
    for state in ("", "#model=llama3_8b"):
        page = opened.go("leaderboard", state)
        assert "predicted" not in page.inner_text("#board")
    page.click("summary:has-text('Evidence')")
    page.check("label:has-text('predicted') input")
    (row,) = page.locator("#board tbody tr").all_inner_texts()
    assert f"80.0{DASH}130" in row
    assert "evidence=predicted" in page.url
    page = opened.go("model", "#id=llama3_8b")
    assert "B200" not in page.inner_text("#board")
    assert f"80.0{DASH}130" in page.inner_text("#predicted")
    page = opened.go("setting", "#id=" + 12 * "e")
    assert "PREDICTED: nobody measured this" in page.inner_text("#answer")
    assert "90 % interval" in page.inner_text("#answer")
    assert "9 settings of 3 models" in page.inner_text("#answer")
    assert opened.errors == []
    opened.context.close()


def test_settings_are_ticked_and_compared_with_the_keyboard(opened: Opened) -> None:
    page = opened.go("leaderboard")
    for box in page.locator("#board tbody input[type=checkbox]").all()[:2]:
        box.focus()
        page.keyboard.press("Space")
    page.focus("text=Compare 2")
    page.keyboard.press("Enter")
    page.wait_for_selector("#board svg")
    assert page.url.count("id=") == 2
    assert page.locator(".picked li").count() == 2


def test_a_hostile_name_does_nothing_on_any_page(opened: Opened, site: Path) -> None:
    ids = ids_of(site, "settings")
    for name in ("index", "leaderboard", "findings", "levers", "submissions", "model", "gpu"):
        opened.go(name, "")
    page = opened.go("setting", f"#id={ids[-1]}")
    assert page.evaluate("window.hit") is None
    page = opened.go("compare", f"#id={ids[-1]}&id={ids[0]}")
    page.wait_for_selector("#board svg")
    assert page.evaluate("window.hit") is None
    assert opened.errors == []


def test_a_picture_and_its_table_can_be_downloaded(opened: Opened, site: Path) -> None:
    ids = ids_of(site, "settings")
    page = opened.go("compare", f"#id={ids[0]}&id={ids[1]}")
    page.wait_for_selector("#board svg")
    with page.expect_download() as png:
        page.click("button[aria-label='Download the picture compare as PNG']")
    assert Path(png.value.path()).read_bytes().startswith(b"\x89PNG")
    with page.expect_download() as csv:
        page.click("button[aria-label='Download the table compare_figures as CSV']")
    assert Path(csv.value.path()).read_text().startswith("Figure,Unit,A,B")


def test_the_page_that_show_writes_is_drawn_without_a_network(
    browser: Any, record: Path, tmp_path: Path
) -> None:
    from wattcount.cli.main import main

    assert main(["show", str(record), "--plot", "-o", str(tmp_path / "plot.html")]) == 0
    opened = Opened(browser, tmp_path)
    page = opened.go("plot")
    page.wait_for_function("document.querySelectorAll('.picture svg').length === 3")
    assert opened.errors == []
    assert opened.asked == [page.url]
    opened.context.close()
