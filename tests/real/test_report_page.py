"""The page of a report in a real browser, on real photos and weights: requests, script, keyboard, contrast, size."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from browser import CHROMIUM, CONTRAST, Browser
from hub import Hub
from safetensors.torch import save

import zoo

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import real_data

pytestmark = [pytest.mark.real, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")]


@pytest.fixture(scope="module")
def page(lite0, tmp_path_factory) -> Path:
    """The report of a probe on the photos, one of whose classes has the name of a tag."""
    root = tmp_path_factory.mktemp("page")
    photos = root / "photos"
    photos.mkdir()
    for folder in real_data.photos().iterdir():
        (photos / (folder.name if folder.name != "sea" else "<img src=x onerror=alert(1)>")).symlink_to(folder)
    weights = {"timm/tf_efficientnet_lite0.in1k": {"model.safetensors": save(lite0.state_dict())}}
    with Hub(weights) as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("ZOO_HOME", str(root / "store"))
        model = zoo.load("timm/tf_efficientnet_lite0.in1k", "cpu")
        model.finetune(photos, strategy="probe", valid=0.5, views=1, l2=0.1, quiet=True)
        zoo.report(model, photos, root / "report.html")
    return root / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def test_page_makes_no_request_and_has_no_error(page, browser):
    browser.requests.clear()
    browser.open(page)
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
    assert browser.problems == []
    assert page.stat().st_size < 1_500_000
    broken = browser.run("[...document.images].filter((image) => !image.naturalWidth).length")
    assert (broken, browser.run("document.images.length") > 10) == (0, True)


def test_script_in_a_label_is_text(page, browser):
    browser.open(page)
    assert browser.run("document.body.textContent.includes('<img src=x onerror=alert(1)>')")
    assert browser.run("document.querySelectorAll('[onerror]').length") == 0


def test_policy_refuses_what_a_label_could_add(page, browser, tmp_path):
    hostile = tmp_path / "hostile.html"
    added = '<script>document.title = "run"</script><img src="https://127.0.0.1:9/x.png"></main>'
    hostile.write_text(page.read_text().replace("</main>", added))
    browser.open(hostile)
    assert browser.run("document.title") != "run"
    assert len(browser.problems) >= 2
    browser.problems.clear()


def test_tables_sort_by_number_and_by_name_with_the_keyboard(page, browser):
    browser.open(page)
    column = "[...document.querySelectorAll('table.sortable tbody tr')].map((row) => row.cells[%d].textContent)"
    recall = browser.run(
        "[...document.querySelectorAll('table.sortable th')].findIndex((h) => h.textContent === 'recall')"
    )
    browser.run(f"document.querySelectorAll('table.sortable th button')[{recall}].focus()")
    browser.press("Enter", 13, "\r")
    values = list(map(float, browser.run(column % recall)))
    assert values == sorted(values, reverse=True)
    browser.press("Enter", 13, "\r")
    assert list(map(float, browser.run(column % recall))) == values[::-1] == sorted(values)
    assert browser.run("document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "ascending"


def test_a_cell_of_the_confusion_matrix_shows_its_mistakes(page, browser):
    browser.open(page)
    count = browser.run(
        "(() => { const a = document.querySelector('.matrix a'); a.click(); return +a.textContent; })()"
    )
    shown = "[...document.querySelectorAll('#mistake-list li')].filter((item) => !item.hidden).length"
    every = browser.run("document.querySelectorAll('#mistake-list li').length")
    assert browser.run(shown) == count < every
    browser.run("[...document.querySelectorAll('#mistake-tools button')].at(-1).click()")
    assert browser.run(shown) == every


def test_without_javascript_all_is_there(page, browser):
    browser.open(page, javascript=False)
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.run("document.querySelectorAll('#mistake-list li:not([hidden])').length") > 10
    assert browser.run("document.querySelector(document.querySelector('.matrix a').getAttribute('href')) !== null")
    assert browser.run("document.querySelectorAll('th button').length") == 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_texts_have_contrast(page, browser, dark):
    browser.open(page, dark=dark)
    lowest = browser.run(CONTRAST)
    assert lowest[0][0] >= 4.5, lowest


@pytest.mark.parametrize("width", [1280, 390])
def test_page_does_not_scroll_sideways(page, browser, width):
    browser.open(page, width=width)
    assert browser.run("document.documentElement.scrollWidth") <= width
