"""Makes the pictures of the README again, from what `make demo` leaves in demo/.

The report's picture compares with one head, and the console's needs a run with heads for categories.
So, after `make demo`:

    pip install playwright
    torchrec-priors report --runs demo/runs --reference one-head --out demo/report-one-head
    torchrec-priors train --config marketplace-mixed --data demo/data --run demo/categories \
        'priors.tree=["temporal:2", "category"]' priors.composition=additive loss.gate=1 \
        evaluation.calibrated=true evaluation.fusion=hierarchical
    python tools/pictures.py

The browser is the system's Chromium, or the one that `playwright install chromium` installs.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

REPOSITORY = Path(__file__).resolve().parents[1]
REPORT = {"width": 1080, "height": 625}
CONSOLE = {"width": 1440, "height": 833}
# Scrolls to where the report says what to turn on.
TO_SUMMARY = "e => window.scrollTo(0, e.getBoundingClientRect().top - 16)"
COLOURS = 128  # of a picture's palette: a third of the bytes, and no difference that one sees


def pictures(
    demo: Annotated[Path, typer.Option(help="Folder of the demo.")] = Path("demo"),
    user: Annotated[str, typer.Option(help="User that the console shows.")] = "1",
    boosted: Annotated[str, typer.Option(help="Category whose heads are boosted.")] = "Beauty",
    muted: Annotated[str, typer.Option(help="Category whose heads are muted.")] = "Kids",
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")] = REPOSITORY
    / "docs/pictures",
) -> None:
    """Writes report.png and console.png."""
    out.mkdir(parents=True, exist_ok=True)
    levers = {"user": user, "boost": f"{boosted}=3", "mute": muted}

    with _browser() as browser, _served(demo / "categories") as address:
        page = browser.new_page(viewport=REPORT)
        page.goto((demo / "report-one-head/index.html").absolute().as_uri())
        page.get_by_role("heading", name="What to turn on").first.evaluate(TO_SUMMARY)
        _save(page.screenshot(), out / "report.png")

        page = browser.new_page(viewport=CONSOLE, reduced_motion="reduce")
        page.goto(f"{address}#{urlencode(levers)}")
        page.locator("#with .rec").first.wait_for()
        page.reload()  # the first answer of a service is slow
        page.locator("#without .rec").first.wait_for()
        page.locator("#with .rec").first.wait_for()
        _save(page.screenshot(), out / "console.png")


@contextmanager
def _browser() -> Iterator[Browser]:
    """Starts the system's Chromium, or Playwright's own."""
    with sync_playwright() as playwright:
        found = shutil.which("chromium") or playwright.chromium.executable_path
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def _served(run: Path) -> Iterator[str]:
    """Starts the service of a run on a free port, and yields its address."""
    command = [sys.executable, "-m", "torchrec_priors.apps.serve", "--run", str(run), "--port", "0"]
    process: Any = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            _, found, address = line.strip().partition("Served at ")
            if found:
                yield address
                return
        raise SystemExit(f"the service of {run} did not start")
    finally:
        process.terminate()
        process.wait()


def _save(picture: bytes, file: Path) -> None:
    """Writes a picture with few colours, as a PNG file."""
    image = Image.open(BytesIO(picture)).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    typer.run(pictures)
