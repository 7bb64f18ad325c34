"""The page as a reader sees it, in a headless Chromium: on a phone, on a desk, in the dark."""

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
