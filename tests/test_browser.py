"""The page in a browser: headless Chromium, where there is one."""

import json
import shutil

import pytest

from invbench.report import render
from tests.results_folder import quick, rich

selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install 'invbench[test]'")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--force-prefers-reduced-motion",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium with chromedriver on the path")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    yield found
    found.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with everything on it, as an address."""
    folder = tmp_path_factory.mktemp("page")
    path = folder / "report.html"
    path.write_text(render(rich(folder, layers=("conv1", "fc1"))), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def wide(browser, page):
    return visit(browser, page, 1280)


def visit(browser, page, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("performance")
    browser.get(page)
    return browser


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_whole_and_keeps_to_itself(browser, page, width):
    visit(browser, page, width)
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"
    ]
    assert asked
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert browser.execute_script("return window.innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("width", [1280, 390])
def test_a_failing_study_fits_too(browser, tmp_path, width):
    path = tmp_path / "report.html"
    path.write_text(render(quick(tmp_path, instances=3, layers=("conv1",))), encoding="utf-8")
    visit(browser, path.as_uri(), width)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    assert "RuntimeError: odd shapes" in browser.find_element(By.ID, "outcome").text


def test_the_best_methods_stand_on_the_first_screen(wide):
    table = wide.find_element(By.ID, "glance")
    assert table.rect["y"] + table.rect["height"] < 900
    assert "lbfgs" in table.text and table.text.count("★") == 3


def test_headings_sort_by_click_and_by_keyboard(wide):
    table = wide.find_element(By.ID, "rank-c1")

    def values():
        cells = table.find_elements(By.CSS_SELECTOR, "tbody[data-sort] td.number:nth-child(3)")
        return [float(cell.get_attribute("data-value")) for cell in cells]

    assert values() == sorted(values())
    heading = table.find_element(By.CSS_SELECTOR, "th.ranked")
    button = heading.find_element(By.TAG_NAME, "button")
    button.click()
    assert heading.get_attribute("aria-sort") == "ascending"
    button.send_keys(Keys.ENTER)
    assert heading.get_attribute("aria-sort") == "descending"
    assert values() == sorted(values(), reverse=True)
    button.send_keys(Keys.SPACE)
    assert values() == sorted(values())


def test_the_filter_hides_rows_columns_and_curves(wide):
    def shown(selector):
        return [one for one in wide.find_elements(By.CSS_SELECTOR, selector) if one.is_displayed()]

    rows, curves = len(shown("#rank-c1 tbody tr")), len(shown("#plot-c1 .series"))
    box = wide.find_element(By.ID, "filter")
    box.send_keys("LBFGS tuned")
    names = [row.find_element(By.TAG_NAME, "th").text for row in shown("#rank-c1 tbody tr")]
    assert len(names) == 1 < rows and "lbfgs" in names[0] and "tuned" in names[0]
    assert 0 < len(shown("#plot-c1 .series")) < curves
    assert len(shown("#grid-c1 td[data-method]")) == 4, "one method, four images"
    assert "“lbfgs tuned”" in wide.find_element(By.ID, "shown").text
    box.clear()
    box.send_keys("fc1")
    assert shown("#rank-c1") == [] and shown("#plot-c1") == [] and shown("#rank-c2")
    box.clear()
    box.send_keys("no such thing")
    assert wide.find_element(By.ID, "shown").text.startswith("No rows")
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(Keys.DELETE)
    assert len(shown("#rank-c1 tbody tr")) == rows and len(shown("#plot-c1 .series")) == curves


def test_a_picture_opens_and_closes_by_keyboard(wide):
    dialog = wide.find_element(By.ID, "zoom")
    button = wide.find_element(By.CSS_SELECTOR, "button.zoom")
    assert not dialog.is_displayed()
    button.send_keys(Keys.ENTER)
    assert dialog.is_displayed()
    title = wide.find_element(By.ID, "zoom-title").text
    assert "photo-" in title and len(dialog.find_elements(By.CLASS_NAME, "tile")) == 4
    wide.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert wide.find_element(By.ID, "zoom-title").text != title
    wide.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert "zoom" in wide.switch_to.active_element.get_attribute("class")
    button.click()
    assert dialog.is_displayed()
    wide.find_element(By.ID, "zoom-close").click()
    assert not dialog.is_displayed()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_figure_of_a_claim_unfolds(browser, page, width):
    visit(browser, page, width)
    folded = browser.find_elements(By.CSS_SELECTOR, "#claims details")
    assert len(folded) == 2, "one claim was not run"
    for one in folded:
        figure = one.find_element(By.TAG_NAME, "svg")
        assert not figure.is_displayed()
        one.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
        assert figure.is_displayed() and 250 < figure.size["width"] < 360
    assert browser.execute_script("return document.documentElement.scrollWidth") == width


def test_a_legend_brings_out_one_method(wide):
    button = wide.find_element(By.CSS_SELECTOR, "#plot-c1 button.pick")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert wide.find_elements(By.CSS_SELECTOR, "#plot-c1 .series.faded")
    assert not wide.find_elements(By.CSS_SELECTOR, f"#plot-c1 .s{button.get_attribute('data-series')}.faded")
    button.click()
    assert not wide.find_elements(By.CSS_SELECTOR, ".series.faded")
