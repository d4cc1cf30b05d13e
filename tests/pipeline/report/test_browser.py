"""The report in a real browser: it fits on a desktop, on a phone of 390 pixels, in the dark and on paper."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.pipeline.report.test_content import manifest, sample
from tests.pipeline.report.test_evaluation_section import evaluation
from tirazh.pipeline.report.evaluation_section import rows_id
from tirazh.pipeline.report.page import render

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium (apt-get install chromium)"),
]
# The page tells its own width in its title when it is laid out.
MEASURE = "<script>document.title = document.documentElement.scrollWidth + ' of ' + window.innerWidth</script>"


def run(*arguments: str, folder: Path) -> str:
    assert BROWSER is not None
    flags = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        f"--user-data-dir={folder / 'profile'}",
    )
    done = subprocess.run([BROWSER, *flags, *arguments], capture_output=True, text=True, timeout=300, check=True)
    return done.stdout


@pytest.fixture
def page(tmp_path: Path) -> Path:
    texts: list[str | None] = [f"{'длинноеслово' * 12} {index}" for index in range(30)]
    path = tmp_path / "report.html"
    values = manifest(labels={"sport": 120, "экономика": 80}, drop_reasons={"language": 3}, kept=197)
    found = evaluation(20, rows_id=rows_id(values))
    html = render(values, sample=sample(texts), evaluations=[found])
    assert "<svg" in html
    path.write_text(html.replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (500, 844)], ids=["desktop", "narrow"])
def test_nothing_is_wider_than_the_window(page: Path, tmp_path: Path, width: int, height: int) -> None:
    dump = run(f"--window-size={width},{height}", "--dump-dom", page.as_uri(), folder=tmp_path)
    title = dump.partition("<title>")[2].partition("</title>")[0]
    needed, _, available = title.partition(" of ")
    assert int(needed) <= int(available), title


@pytest.mark.parametrize("look", ["desktop", "phone", "dark"])
def test_a_screenshot_can_be_taken(page: Path, tmp_path: Path, look: str) -> None:
    picture = tmp_path / f"{look}.png"
    size = "390,844" if look == "phone" else "1280,900"
    dark = ["--blink-settings=preferredColorScheme=0"] if look == "dark" else []
    run(f"--window-size={size}", f"--screenshot={picture}", *dark, page.as_uri(), folder=tmp_path)
    assert picture.stat().st_size > 10_000


def test_the_page_can_be_printed(page: Path, tmp_path: Path) -> None:
    printed = tmp_path / "report.pdf"
    run(f"--print-to-pdf={printed}", page.as_uri(), folder=tmp_path)
    assert printed.read_bytes().startswith(b"%PDF")
