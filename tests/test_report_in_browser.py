"""The report in a real browser, where there is one: at the width of a phone and of a desk, and by keyboard alone."""

import io
import shutil

import numpy as np
import pytest
from matplotlib.image import imread
from synthetic import noisy_staircase

import sltjax
from sltjax.report import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
WIDTHS = {"phone": 390, "desk": 1280}

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    dataset = noisy_staircase(60, failed={11: "file is truncated"}, warned={40: "R-hat 1.31: draw longer"})
    angle = np.linspace(0, 3, 60)[:, None] * np.arange(1, 4)
    dataset["outputs"] = (("checkpoint", "outputs_0"), np.sin(angle), {"role": "metric"})
    parts = {name: dataset.drop_vars(["outputs", "exact_llc"]) for name in ("attention", "mlp")}
    path = tmp_path_factory.mktemp("browser") / "report.html"
    recipe = '[problem]\nloss = "a_module_with_a_long_name:' + "loss_" * 30 + '"'
    return write_report(dataset, sltjax.stages(dataset), path, parts, recipe)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=WIDTHS)
def page(request, browser, page_path):
    page = browser.new_page(viewport={"width": WIDTHS[request.param], "height": 900})
    page.requested, page.faults = [], []
    page.on("request", lambda asked: page.requested.append(asked.url))
    page.on("console", lambda message: page.faults.append(message.text))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(page_path.as_uri())
    yield page
    page.close()


def test_it_opens_from_disk_and_asks_for_nothing_else(page, page_path):
    assert [url for url in page.requested if not url.startswith("data:")] == [page_path.as_uri()]
    assert page.faults == []


def test_nothing_is_wider_than_the_screen(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for box in page.locator("h1, h2, p, figure, .scroll, pre, dl").all():
        place = box.bounding_box()
        assert place is None or place["x"] >= 0, box
        assert place is None or place["x"] + place["width"] <= page.viewport_size["width"], box


def test_every_figure_is_drawn(page):
    figures = page.locator(".sheet svg")
    assert figures.count() == 4  # development, trajectories, parts, traces
    for figure in figures.all():
        seen = imread(io.BytesIO(figure.screenshot()))[..., :3]
        assert len(np.unique((seen * 15).astype(int).reshape(-1, 3), axis=0)) > 20
        assert 0.01 < (seen.min(axis=2) < 0.9).mean() < 0.5


def test_tables_sort_and_sections_open_by_keyboard_alone(page):
    steps = "[...document.querySelectorAll('.sortable tbody tr td:first-child')].map(td => Number(td.dataset.key))"
    before = page.evaluate(steps)
    assert before == sorted(before)
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.textContent.trim().slice(0, 20)")
        reached.append(name)
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"focus on {name!r} is not seen"
        if name == "step":
            page.keyboard.press("Enter")
            assert page.evaluate(steps) == sorted(before, reverse=True)
        if name == "BibTeX":
            page.keyboard.press("Enter")
            break
    assert page.locator("summary:has-text('BibTeX') + pre").is_visible()
    assert reached.index("Stages") < reached.index("step") < reached.index("recipe.toml")
