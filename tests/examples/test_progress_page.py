"""The page with the progress bar, as somebody sees it: a real worker, a real server, a real browser."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from celery_laravel.testing.processes import ManagedProcess, free_port, wait_until
from tests.support.worker import ROOT

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
Browser = Any
"""Selenium's WebDriver, which has no types of its own worth the name here."""


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """The example, running; the address of its page."""
    port = free_port()
    process = ManagedProcess(
        [sys.executable, "-m", "tasks_examples.progress_page", str(port)],
        log=tmp_path / "example.log",
        cwd=ROOT,
        env={**os.environ, "EXAMPLES_FOLDER": str(tmp_path)},
    )
    address = f"http://127.0.0.1:{port}/"
    process.start()
    try:
        wait_until(lambda: answers(address), timeout=60)
        yield address
    finally:
        process.stop()


def answers(address: str) -> bool:
    try:
        return httpx.get(address).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if not (BROWSER and DRIVER):
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=900,620"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path}/browser")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


def text(browser: Browser, element: str) -> str:
    return str(browser.find_element("id", element).text)


def press(browser: Browser, button: str) -> None:
    browser.find_element("id", button).click()


def percent(browser: Browser) -> int:
    return int(text(browser, "percent"))


def percent_of_a_running(browser: Browser) -> int:
    """How far a batch is that runs and is being watched, by one look at the page; else 0."""
    words = ["state", "line", "percent"]
    state, line, shown = browser.execute_script("return arguments[0].map(id => by(id).textContent)", words)
    return int(shown) if (state, line) == ("running", "live") and shown != "100" else 0


@pytest.mark.timeout(180)
def test_a_page_shows_a_batch_from_its_start_to_its_end(url: str, browser: Browser, tmp_path: Path):
    until: Callable[..., Any] = lambda condition: wait_until(condition, timeout=60)  # noqa: E731  one word for many lines
    browser.get(url + "?count=64&seconds=0.12")
    assert text(browser, "state") == "not started"

    press(browser, "start")
    before = until(lambda: percent_of_a_running(browser))
    browser.save_screenshot(str(tmp_path / "running.png"))
    browser.refresh()  # the page goes on with the batch that its address names
    until(lambda: percent(browser) > before)

    until(lambda: text(browser, "state") == "with failures")
    assert (percent(browser), text(browser, "failed"), text(browser, "succeeded")) == (100, "4", "60")
    bar = browser.find_element("id", "bar")
    assert bar.get_attribute("aria-valuenow") == "100"
    assert {part.get_attribute("style") for part in bar.find_elements("tag name", "span")} == {
        "width: 93.75%;",
        "width: 6.25%;",
        "width: 0%;",
    }
    until(lambda: text(browser, "line") == "done")
    browser.save_screenshot(str(tmp_path / "failures.png"))

    press(browser, "retry")
    until(lambda: text(browser, "state") == "finished")
    assert (text(browser, "failed"), text(browser, "succeeded")) == ("0", "64")
    browser.save_screenshot(str(tmp_path / "finished.png"))

    browser.get(url + "?count=300&seconds=0.2")
    press(browser, "start")
    until(lambda: percent_of_a_running(browser))
    press(browser, "cancel")
    until(lambda: text(browser, "state") == "cancelled")
    until(lambda: text(browser, "line") == "done")
    assert percent(browser) == 100

    browser.get(url + "#nothing-of-the-kind")
    browser.refresh()
    until(lambda: text(browser, "state") == "unknown")
    complaints = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert all("404" in message for message in complaints), complaints
