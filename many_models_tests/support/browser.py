"""The system's Chromium, driven by Playwright, which fetches none of its own; and axe-core, which npm fetches once."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from many_models_tests.stand_ins.azurite import _node, missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

AXE = "4.10.3"
PATIENCE_MS = 120_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a screen."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        missing("Chromium is not installed: `make test-tools` installs it (Debian)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page of a browser that keeps every address it asked for, and everything that went wrong in it."""

    def __init__(self, page: Page) -> None:
        self.page, self.asked, self.wrong = page, list[str](), list[str]()
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", lambda message: message.type == "error" and self.wrong.append(message.text))

    def open(self, url: str) -> Page:
        """The page at `url`, its charts drawn."""
        self.page.goto(url)
        if self.page.locator("[data-chart]").count():
            self.page.wait_for_selector("html[data-drawn]", state="attached")
        return self.page


def axe_script() -> str:
    """axe-core's script."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "many_models_tests" / f"axe-core-{AXE}"
    script = cache / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:  # another test process may be at it
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not script.exists():
                _install(cache)
    return script.read_text()


def _install(cache: Path) -> None:
    _, npm = _node()
    words = [*npm, "install", "--prefix", str(cache), "--no-audit", "--no-fund", "--ignore-scripts", f"axe-core@{AXE}"]
    path = f"{Path(npm[0]).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "PATH": path}
    )
    if done.returncode:
        missing(f"npm cannot install axe-core {AXE}: {done.stderr.strip()[-500:]}")


def serious_findings(page: Page) -> list[dict[str, Any]]:
    """What axe-core finds on a page that is serious or critical: rule and the places."""
    page.evaluate(axe_script())  # past the page's own policy, as an extension would
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        {"rule": one["id"], "help": one["help"], "places": [node["html"][:200] for node in one["nodes"]][:5]}
        for one in found["violations"]
        if one["impact"] in {"serious", "critical"}
    ]
