"""The page as a reader sees it, in a headless Chromium: on a phone, on a desk, in the dark."""

import csv
import io

import pytest
from in_a_browser import LOWEST_CONTRAST, chromium_of

sync_api = pytest.importorskip(
    "playwright.sync_api",
    reason="playwright is not installed: pip install 'torchrec-priors[browser]'",
)

PLOTS = """() => Array.from(document.querySelectorAll('svg.plot'), plot => ({
  role: plot.getAttribute('role'),
  name: plot.getAttribute('aria-labelledby').split(' ').map(id => document.getElementById(id).textContent),
  texts: Array.from(plot.querySelectorAll('text'), text => text.textContent.trim()),
  smallest: Math.min(...Array.from(plot.querySelectorAll('text'), text =>
    parseFloat(getComputedStyle(text).fontSize) * plot.getBoundingClientRect().width / plot.viewBox.baseVal.width)),
  cut: Array.from(plot.querySelectorAll('text')).filter(text => {
    const [inner, outer] = [text.getBoundingClientRect(), plot.getBoundingClientRect()];
    return inner.left < outer.left - 2 || inner.right > outer.right + 2 || inner.top < outer.top - 2
      || inner.bottom > outer.bottom + 2;
  }).map(text => text.textContent.trim()),
  width: plot.getBoundingClientRect().width,
}))"""


@pytest.fixture(scope="module")
def chromium():
    with chromium_of(sync_api) as browser:
        yield browser


@pytest.fixture
def look(chromium, page):
    """Opens the page at a width, in light or dark; nothing may go wrong while it is open."""
    opened, wrong = [], []

    def opens(width, scheme="light"):
        context = chromium.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
        )
        opened.append(context)
        view = context.new_page()
        view.on("console", lambda message: wrong.append(message.text))
        view.on("pageerror", lambda error: wrong.append(str(error)))
        view.on("requestfailed", lambda request: wrong.append(request.url))
        view.on(
            "request",
            lambda request: wrong.extend(
                [] if request.url.startswith(("file:", "data:")) else [request.url]
            ),
        )
        view.goto(page.as_uri())
        view.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        return view

    yield opens
    for context in opened:
        context.close()
    assert not wrong


def test_on_a_phone_the_page_does_not_scroll_sideways_but_its_tables_do(look):
    view = look(360)
    assert view.evaluate("document.documentElement.scrollWidth") == 360
    wide = view.evaluate(
        "Array.from(document.querySelectorAll('.scroll')).filter(e => e.scrollWidth > e.clientWidth).length"
    )
    assert wide >= 3
    beyond = view.evaluate(
        "Array.from(document.querySelectorAll('body *')).filter(e => !e.closest('.scroll, pre, svg') && "
        "e.getBoundingClientRect().right > 361).map(e => e.outerHTML.slice(0, 80))"
    )
    assert beyond == []
    assert view.evaluate("parseFloat(getComputedStyle(document.body).fontSize)") >= 16


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_told_from_what_is_behind_it(look, scheme):
    ratio, text = look(1200, scheme).evaluate(LOWEST_CONTRAST)
    assert ratio >= 4.5, text


def test_the_dark_page_is_dark(look):
    colours = "['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name])"
    line = "getComputedStyle(document.querySelector('svg.plot path[style*=series]')).stroke"
    light, dark = look(800), look(800, "dark")
    assert light.evaluate(colours)[0] == "rgb(255, 255, 255)"
    assert max(map(int, dark.evaluate(colours)[0][4:-1].split(","))) < 40
    assert light.evaluate(line) != dark.evaluate(line)


@pytest.mark.parametrize("width", [360, 1200])
def test_every_plot_has_labelled_axes_and_words_for_those_who_do_not_see_it(look, width):
    plots = look(width).evaluate(PLOTS)
    assert len(plots) >= 8
    labels = {
        "training step",
        "loss (nats)",
        "ndcg@10",
        "entropy@10 (bits)",
        "difference in ndcg@10",
    }
    for plot in plots:
        assert plot["role"] == "img"
        title, description = plot["name"]
        assert title
        y_label, _, rest = description.partition(" against ")
        assert y_label in plot["texts"]
        assert rest.partition(". ")[0] in plot["texts"]
        assert any(character.isdigit() for character in rest)
        assert plot["smallest"] >= 9, "readable"
        assert plot["cut"] == []
        assert plot["width"] <= width
    assert labels <= {text for plot in plots for text in plot["texts"]}


def test_links_of_the_contents_lead_to_what_they_name(look):
    view = look(1200)
    view.get_by_role("link", name="Example users").click()
    assert view.evaluate("document.activeElement !== null && location.hash") == "#s0-examples"
    assert view.locator("#s0-examples").is_visible()
    assert view.locator("nav a").count() >= 6


CELLS = """(table, column) => Array.from(table.tBodies[0].rows, row => row.cells[column].textContent.trim())"""


def test_a_column_sorts_by_mouse_and_by_keyboard(look):
    view = look(1200)
    table = view.get_by_role("region", name="Means over seeds").locator("table")

    def column(number):
        return table.evaluate(f"table => ({CELLS})(table, {number})")

    first = column(1)
    assert first == sorted(first, reverse=True), "the most accurate model is first"
    by_ndcg = table.get_by_role("button", name="ndcg@10", exact=True)
    by_ndcg.focus()
    view.keyboard.press("Enter")
    view.keyboard.press("Enter")
    assert column(1) == sorted(first)
    head = table.locator("th[aria-sort]")
    assert head.count() == 1
    assert head.get_attribute("aria-sort") == "ascending"
    table.get_by_role("button", name="Model").click()
    assert column(0) == sorted(column(0))


def test_times_and_differences_are_sorted_as_numbers(look):
    view = look(1200)
    numbers = view.evaluate(
        "['12.3 ms', '1.02 s', '\u22120.0012 [\u22120.1, +0.2]', '2,432', '4.43 %', '0.5 MB', '\u2013', 'text']"
        ".map(numberOf)"
    )
    assert numbers[:6] == [0.0123, 1.02, -0.0012, 2432, 4.43, 500_000]
    assert numbers[6:] == [None, None] or all(value != value for value in numbers[6:])


def test_every_table_is_saved_as_csv(look, tmp_path):
    view = look(1200)
    tables = view.locator(".scroll table").count()
    assert view.locator("button.csv").count() == tables
    with view.expect_download() as saved:
        view.get_by_role("button", name="Download “Difference from “one-head”” as CSV").click()
    assert saved.value.suggested_filename == "difference-from-one-head.csv"
    saved.value.save_as(tmp_path / "table.csv")
    text = (tmp_path / "table.csv").read_bytes().decode("utf-8-sig")
    head, *rows = csv.reader(io.StringIO(text))
    assert head[:5] == ["Model", "ndcg@10", "ndcg@10 low", "ndcg@10 high", "verdict on ndcg@10"]
    assert rows[0][0] == "genre-lt-st-2"
    low, mean, high = (float(rows[0][place]) for place in (2, 1, 3))
    assert low < mean < high


def test_no_cell_of_a_csv_is_a_formula(look):
    fields = look(1200).evaluate(
        "['=1+1', '+cmd', '-x', '@a', '-0.5', '+0.5', '2,432', 'a,b', 'a \"b\"', '\u2013'].map(field)"
    )
    assert fields == [
        "'=1+1", "'+cmd", "'-x", "'@a", "-0.5", "0.5", "2432", '"a,b"', '"a ""b"""', "",
    ]  # fmt: skip


def test_on_a_phone_wide_tables_say_so_and_keep_their_names_in_view(look):
    view = look(360)
    region = view.get_by_role("region", name="Means over seeds")
    assert view.locator(".swipe:visible").count() >= 3
    region.evaluate("region => region.scrollLeft = region.scrollWidth")
    name, right = region.evaluate(
        "region => { const cell = region.querySelector('tr.winner th').getBoundingClientRect();"
        " return [cell.left - region.getBoundingClientRect().left, cell.right]; }"
    )
    assert abs(name) < 2, "the first column stays"
    assert right < 200
    assert region.evaluate("region => region.querySelector('tbody tr').className") == "winner"
    wide = look(1600)
    assert wide.get_by_role("region", name="Means over seeds").is_visible()
    hinted = "regions => regions.map(region => [region.scrollWidth > region.clientWidth, region.previousElementSibling"
    hinted += ".checkVisibility()])"
    regions = wide.locator(".swipe + .scroll").evaluate_all(hinted)
    assert all(is_wide == is_hinted for is_wide, is_hinted in regions)
    assert [False, False] in regions


def test_without_javascript_the_tables_can_be_read(chromium, page):
    context = chromium.new_context(java_script_enabled=False)
    view = context.new_page()
    view.goto(page.as_uri())
    assert view.get_by_role("region", name="Means over seeds").locator("tbody tr").count() == 8
    assert view.locator("button").count() == 0
    context.close()
