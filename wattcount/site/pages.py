"""The pages of a site, in the order of the navigation. A page is an entry here, its template, and its scripts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Page:
    """A page of the site.

    name       of its file, `<name>.html`
    title      as it stands in the navigation and in the window's title
    template   in `templates/`
    scripts    in the order in which they are loaded: files of `static/`, or `data/<name>.js` that the builder writes
    about      one sentence: what it answers
    in_menu    False: others link to it, with an id
    evaluates  its scripts make functions of text, as Vega's compiler does
    """

    name: str
    title: str
    template: str
    scripts: tuple[str, ...] = ()
    about: str = ""
    in_menu: bool = True
    evaluates: bool = False

    @property
    def file(self) -> str:
        return f"{self.name}.html"


META, SETTINGS, ROWS, ADVICE = "data/meta.js", "data/settings.js", "data/rows.js", "data/advice.js"
"""Scripts with what is said of the figures, models and GPUs; with the table of settings; with that of single results; with the advice."""
UNPACK = "static/data.js"
"""Script that unpacks data, after these."""
TABLE = (UNPACK, "static/table.js")
"""Scripts that a page with a table made in the browser needs, after its data."""

PICTURES = ("data/pictures.js", "static/vega.js", "static/draw.js", "static/plot.js")
"""Scripts that a page with pictures needs."""

OWN_RUNS = ("static/formats.js", "static/own.js")
"""Scripts that a page needs which takes runs of one's own."""

PAGES: list[Page] = [
    Page("index", "Overview", "index.html", ("data/curves.js", UNPACK, *PICTURES, "static/index.js"), "What this is, what it found, and how sure that is", evaluates=True),
    Page("leaderboard", "Leaderboard", "leaderboard.html", (META, SETTINGS, *TABLE, *PICTURES, "static/leaderboard.js"), "Every setting with its interval: filter, sort, compare", evaluates=True),
    Page("load-curves", "Load curves", "load_curves.html", (META, "data/curves.js", *TABLE, *PICTURES, *OWN_RUNS, "static/load_curves.js"), "Energy, good requests and latency by offered load", evaluates=True),
    Page("compare", "Compare", "compare.html", (META, SETTINGS, *TABLE, *PICTURES, *OWN_RUNS, "static/compare.js"), "Two to six settings side by side, and runs of your own", evaluates=True),
    Page("advice", "Advice", "advice.html", (ADVICE, UNPACK, "static/advice.js"), "What should serve a model at a load"),
    Page("findings", "Findings", "findings.html", about="The standing questions, each with its answer, how sure it is, and the rows that it rests on"),
    Page("levers", "Levers", "levers.html", about="What each setting saves, and what it does to users"),
    Page("submissions", "Submissions", "submissions.html", about="Who measured, when, and what the validator said"),
    Page("method", "Method", "method.html", about="How to read an interval, and what each figure is"),
    Page("changes", "Changes", "changes.html", about="What came and went, version by version"),
    Page("model", "Models", "subject.html", (META, SETTINGS, *TABLE, "static/subject.js"), "One model: all its settings", in_menu=False),
    Page("gpu", "GPUs", "subject.html", (META, SETTINGS, *TABLE, "static/subject.js"), "One GPU: all its settings", in_menu=False),
    Page("setting", "Setting", "setting.html", (META, SETTINGS, ROWS, *TABLE, "static/setting.js"), "One setting: its runs, and what its figures rest on", in_menu=False),
    Page("run", "Run", "run.html", (META, ROWS, "data/definitions.js", *TABLE, *PICTURES, "static/run.js"), "One run: its power over time, its findings, all its figures", in_menu=False, evaluates=True),
]  # fmt: skip
"""All pages. The order is that of the navigation."""
