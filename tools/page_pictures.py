"""Takes the pictures of the pages that docs/ shows: `make pages`, then `python tools/page_pictures.py`. Needs Chromium."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "build" / "pages"
IMAGES = ROOT / "docs" / "images"
SHOWN = {
    "pages_leaderboard": ("leaderboard.html#load=server+16+requests/s,+512/128+tokens&model=llama3_1_8b", 1280, 760, ()),
    "pages_advice": ("advice.html#model=llama3_1_8b&load=10+requests/s", 1280, 760, ("--force-dark-mode",)),
}  # fmt: skip
"""By the name of a picture: the view, width and height of the window [pixels], and flags of the browser."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 5000
"""Time that a page has to be drawn, in the browser's own clock [ms]."""


def main() -> int:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None or not PAGES.is_dir():
        print(
            f"it takes Chromium ({', '.join(BROWSERS)}) and the pages in {PAGES}: `make pages`",
            file=sys.stderr,
        )
        return 2
    for name, (view, width, height, flags) in SHOWN.items():
        with tempfile.TemporaryDirectory() as profile:
            subprocess.run(
                [
                    browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}",
                    f"--virtual-time-budget={WAIT_MS}", f"--window-size={width},{height}", *flags,
                    f"--screenshot={IMAGES / name}.png", f"{(PAGES / view.partition('#')[0]).as_uri()}#{view.partition('#')[2]}",
                ],
                check=True, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        print(f"{IMAGES / name}.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
