"""The console as a person uses it, in a headless Chromium, with a service that answers by a rule."""

import time

import pytest
from fake_service import FakeService, recommended
from in_a_browser import LOWEST_CONTRAST, chromium_of

sync_api = pytest.importorskip(
    "playwright.sync_api",
    reason="playwright is not installed: pip install 'torchrec-priors[browser]'",
)

USER = "#user=1"
LEVERS = "#user=1&boost=Comedy%3D1.4&mute=Drama&least=Documentary%3D0.2"
TITLES = "rows => rows.map(row => row.querySelector('.title').firstChild.data)"
# Notes everything that the page says about problems, also for a moment.
SAID = """() => {
  window.said = [];
  const problem = document.getElementById('problem');
  new MutationObserver(() => said.push(problem.textContent)).observe(problem, {childList: true});
}"""
# The control that has the focus, where another element lies over its middle.
COVERED = """() => {
  const control = document.activeElement;
  const {x, y, width, height} = control.getBoundingClientRect();
  const found = document.elementFromPoint(x + width / 2, y + height / 2);
  return control.contains(found) ? '' : control.outerHTML.slice(0, 200);
}"""
# The parts of rows that are cut, or that lie over other parts.
CROWDED = """rows => rows.flatMap(row => {
  const parts = Array.from(row.querySelectorAll('.rank, .move, .title, .add, .why b, .more, .score'))
    .filter(part => part.textContent && part.getClientRects().length);
  const boxes = parts.map(part => part.getBoundingClientRect());
  const over = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 5 && b.top < a.bottom - 5;
  return parts.filter((part, at) => part.scrollWidth > part.clientWidth + 1 && part.clientWidth
    || boxes.some((box, other) => other !== at && over(box, boxes[at]))).map(part => part.outerHTML);
})"""
MOVES = "rows => rows.map(row => row.querySelector('.move').textContent)"


@pytest.fixture(scope="module")
def chromium():
    with chromium_of(sync_api) as browser:
        yield browser


@pytest.fixture
def service():
    started = FakeService()
    yield started
    started.close()


@pytest.fixture
def wrong():
    """What went wrong while pages were open; it must be empty at the end."""
    found = []
    yield found
    assert not found


@pytest.fixture
def look(chromium, service, wrong):
    """Opens the console with an address, at a width, in light or dark."""
    opened = []

    def opens(address="", width=1440, scheme="light", height=900):
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            reduced_motion="reduce",
        )
        opened.append(context)
        view = context.new_page()
        view.on("console", lambda message: wrong.append(message.text))
        view.on("pageerror", lambda error: wrong.append(str(error)))
        view.on(
            "request",
            lambda request: wrong.extend(
                [] if request.url.startswith((service.url, "data:")) else [request.url]
            ),
        )
        view.goto(service.url + address)
        view.locator("#without .rec").first.wait_for(state="attached")
        view.locator("#with .rec").first.wait_for(state="attached")
        return view

    yield opens
    for context in opened:
        context.close()


def settled(view, condition):
    """Waits until a condition in JavaScript holds. (The page forbids Playwright's own way.)"""
    deadline = time.monotonic() + 60
    while not view.evaluate(condition):
        assert time.monotonic() < deadline, condition
        view.wait_for_timeout(20)


def titles(view, name):
    return view.eval_on_selector_all(f"#{name} .rec", TITLES)


def expected(body):
    """The titles that the service recommends."""
    return [item["title"] or f"Item {item['item_id']}" for item in recommended(body)["items"]]


def test_a_user_is_found_and_a_history_built_with_the_keyboard_alone(look, service):
    view = look()
    view.keyboard.press("/")
    assert view.evaluate("document.activeElement.id") == "item-search"

    view.locator("#user-search").focus()
    view.keyboard.type("11")
    view.locator("#user-search-options li").nth(3).wait_for()
    view.keyboard.press("ArrowDown")
    chosen = view.locator("#user-search-options [aria-selected=true] span").inner_text()
    view.keyboard.press("Enter")
    settled(view, "document.querySelectorAll('#history li').length === 6")
    assert chosen == "110"
    assert service.bodies[-1]["user"] == "110"
    assert "4 stars, 1998-" in view.locator("#history li").first.inner_text()

    view.locator("#item-search").focus()
    view.keyboard.type("star w")
    settled(view, "document.querySelectorAll('#item-search-options li').length === 1")
    view.keyboard.press("Enter")
    settled(view, "document.querySelectorAll('#history .added').length === 1")
    settled(view, "!document.querySelector('.stale')")
    assert service.bodies[-1]["session"] == [50]
    assert titles(view, "with") == expected(service.bodies[-1])

    # Escape closes the suggestions; Remove takes the item away again.
    view.keyboard.press("ArrowDown")
    view.locator("#item-search-options li").first.wait_for()
    view.keyboard.press("Escape")
    assert not view.locator("#item-search-options").is_visible()
    view.get_by_role("button", name="Remove Star Wars (1977)").press("Enter")
    settled(view, "!document.querySelector('#history .added')")


def test_every_item_has_its_reason_and_the_scores_of_its_heads(look):
    view = look(USER)
    first = view.locator("#with .rec").nth(1)
    assert first.locator(".why b").inner_text() == "short-term / Comedy"
    first.locator(".why").press("Enter")
    scores = first.locator(".scores .score").all_inner_texts()
    assert scores == sorted(scores, reverse=True)
    assert len(scores) >= 2
    # Arrow keys go from one item to the next.
    view.keyboard.press("ArrowDown")
    assert view.evaluate("document.activeElement === document.querySelectorAll('#with .why')[2]")


def test_lists_answer_while_a_slider_is_dragged_and_the_last_position_counts(look, service):
    view = look(USER)
    before = titles(view, "with")
    box = view.get_by_label("Boost War").bounding_box()
    middle = box["y"] + box["height"] / 2
    view.mouse.move(box["x"] + box["width"] / 2, middle)
    view.mouse.down()
    view.mouse.move(box["x"] + box["width"] - 12, middle, steps=8)
    # The button is still held. Lists of the first positions may be as before.
    for _ in range(200):
        if titles(view, "with") != before:
            break
        view.wait_for_timeout(50)
    assert titles(view, "with") != before
    view.mouse.move(box["x"] + box["width"] - 6, middle, steps=3)
    view.mouse.up()
    boost = {"War": round(2 ** float(view.get_by_label("Boost War").input_value()), 3)}
    for _ in range(200):
        asked = service.bodies[-1]
        if asked["levers"]["boost"] == boost and titles(view, "with") == expected(asked):
            break
        view.wait_for_timeout(50)
    assert service.bodies[-1]["levers"]["boost"] == boost
    assert titles(view, "with") == expected(service.bodies[-1])
    assert titles(view, "without") == before


def test_of_many_changes_the_latest_wins_and_older_requests_are_aborted(look, service):
    view = look(USER)
    aborted = []
    view.on("requestfailed", lambda request: aborted.append(request.url))
    asked = len(service.bodies)
    service.takes = 1.0
    slider = view.get_by_label("Boost War")
    slider.focus()
    for _ in range(6):
        view.keyboard.press("ArrowRight")
    service.takes = 0.0
    settled(view, "document.getElementById('moves').textContent.includes('in')")
    view.wait_for_timeout(1_200)  # the answers of aborted requests do not come back
    last = service.bodies[-1]["levers"]["boost"]["War"]
    assert last == round(2 ** float(slider.input_value()), 3)
    assert aborted
    assert len(service.bodies) - asked <= 6
    assert titles(view, "with") == expected(service.bodies[-1])


def test_muted_groups_explain_nothing_and_required_groups_have_their_share(look, service):
    view = look(USER)
    view.get_by_role("button", name="Mute Comedy").press("Enter")
    view.get_by_label("At least this share of Documentary").press("End")
    settled(view, "document.getElementById('levers-count').textContent === '2 set'")
    for _ in range(7):
        view.get_by_label("At least this share of Documentary").press("ArrowLeft")
    view.wait_for_timeout(300)
    assert service.bodies[-1]["levers"] == {
        "boost": {},
        "mute": ["Comedy"],
        "at_least": {"Documentary": 0.3},
    }
    reasons = view.locator("#with .why b").all_inner_texts()
    assert not any("Comedy" in reason for reason in reasons)
    assert sum("Documentary" in reason for reason in reasons) == 3
    # Segments of time have no items, so no share of them can be demanded.
    assert view.get_by_label("At least this share of short-term").count() == 0

    view.get_by_role("button", name="Reset").click()
    settled(view, "document.getElementById('moves').textContent === 'no lever is set'")
    assert titles(view, "with") == titles(view, "without")


def test_both_lists_say_what_moved(look):
    view = look(LEVERS)
    settled(view, "document.getElementById('moves').textContent.includes('in')")
    listed, plain = titles(view, "with"), titles(view, "without")
    places = {title: place for place, title in enumerate(plain)}
    marks = []
    for place, title in enumerate(listed):
        by = places[title] - place if title in places else None
        mark = "in" if by is None else f"▲ {by}" if by > 0 else f"▼ {-by}" if by < 0 else ""
        marks.append(mark)
    assert view.eval_on_selector_all("#with .rec", MOVES) == marks
    outs = ["" if title in listed else "out" for title in plain]
    assert view.eval_on_selector_all("#without .rec", MOVES) == outs
    counts = view.locator("#moves").inner_text()
    assert f"{marks.count('in')} in" in counts
    assert f"{outs.count('out')} out" in counts


def test_the_address_keeps_user_history_and_levers(look, service):
    view = look(LEVERS + "&item=50")
    settled(view, "document.querySelectorAll('#history .added').length === 1")
    # The lists with and without levers are asked for in any order.
    asked = [body["levers"] for body in service.bodies if "levers" in body]
    view.reload()
    view.locator("#with .rec").first.wait_for()
    settled(view, "document.querySelectorAll('#history .added').length === 1")
    settled(view, "!document.querySelector('.stale')")
    assert "Star Wars (1977)" in view.locator("#history .added").inner_text()
    again = [body["levers"] for body in service.bodies if "levers" in body]
    assert len(again) > len(asked)
    assert again[-1] == asked[-1]


def test_an_id_that_a_number_cannot_hold_is_sent_as_it_is(look, service):
    view = look()
    view.locator("#item-search").fill("long id")
    settled(view, "document.querySelectorAll('#item-search-options li').length === 1")
    view.locator("#item-search").press("Enter")
    settled(view, "document.querySelectorAll('#history .added').length === 1")
    settled(view, "!document.querySelector('.stale')")
    assert str(service.bodies[-1]["history"][0]) == "9007199254740993"


def test_errors_are_shown_in_words_and_a_busy_service_is_asked_again(look, service, wrong):
    view = look(USER)
    view.evaluate(SAID)
    service.problems += [(429, "too many requests wait: try again")]
    view.get_by_role("button", name="Mute Comedy").click()
    settled(view, "said.some(words => words.includes('Too many requests'))")
    settled(view, "document.getElementById('problem').hidden")  # it was asked again
    assert titles(view, "with") == expected(service.bodies[-1])

    service.problems += [(422, "at-least: 'War' = 1 needs more items than k: ask for less")]
    view.get_by_label("At least this share of War").press("End")
    settled(view, "document.getElementById('problem').textContent.includes('needs more items')")
    assert view.locator("#with .rec").count() == 10, "the last list stays"
    # It is not what was asked for, so it is dimmed, and no item has moved from or to it.
    assert "stale" in view.locator("#with").get_attribute("class")
    assert not any(view.eval_on_selector_all(".rec", MOVES))
    assert view.locator("#moves").inner_text() == ""
    # Chromium itself writes a line for each failed call.
    wrong[:] = [line for line in wrong if "Failed to load resource" not in line]


def test_that_all_heads_are_muted_is_said_in_place_of_the_list(look, service, wrong):
    view = look(USER, height=500)
    view.evaluate("document.getElementById('lists').scrollTop = 300")
    view.get_by_role("button", name="Mute short-term").press("Enter")
    view.get_by_role("button", name="Mute long-term").press("Enter")
    notes = view.locator("#with .notes")
    settled(view, "document.querySelector('#with .notes').textContent.startsWith('All heads')")
    assert notes.inner_text() == "All heads are muted: unmute one."
    box = notes.bounding_box()
    lists = view.locator("#lists").bounding_box()
    assert lists["y"] < box["y"] < lists["y"] + lists["height"] - box["height"]
    assert view.locator("#with .rec").count() == 0
    assert not any(view.eval_on_selector_all("#without .rec", MOVES))
    assert not view.locator("#problem").is_visible()

    view.get_by_role("button", name="Mute long-term").press("Enter")
    settled(view, "document.querySelectorAll('#with .rec').length === 10")
    assert not notes.is_visible()
    assert titles(view, "with") == expected(service.bodies[-1])
    wrong[:] = [line for line in wrong if "Failed to load resource" not in line]


def test_a_token_is_asked_for_and_sent(chromium, service):
    service.token = "secret"
    context = chromium.new_context()
    view = context.new_page()
    view.goto(service.url)
    settled(view, "document.getElementById('problem').textContent.includes('needs a token')")
    settled(view, "document.activeElement.id === 'token'")
    assert view.locator("#model").inner_text() == "No description without a token"
    assert view.get_by_role("button", name="Use").bounding_box()["height"] < 40, "it is one line"
    view.keyboard.type("secret")
    view.keyboard.press("Enter")
    view.locator("#with .rec").first.wait_for()
    assert service.tokens[-1] == "Bearer secret"
    assert not view.locator("#problem").is_visible()
    context.close()


def test_titles_are_texts_whatever_is_in_them(look, wrong):
    view = look()
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    found = {"items": [{"item_id": "<b>1</b>", "title": evil}]}
    view.route("**/v1/items?**", lambda route: route.fulfill(json=found))
    view.locator("#item-search").fill("x")
    settled(view, "document.querySelectorAll('#item-search-options li').length === 1")
    view.locator("#item-search").press("Enter")
    settled(view, "document.querySelectorAll('#history .added').length === 1")
    assert view.locator("#history .title").first.inner_text() == evil
    assert view.locator("#history img, #history script").count() == 0


def test_on_a_phone_nothing_is_beyond_the_edge_and_one_list_is_shown(look):
    view = look(LEVERS, width=375, height=812)
    assert view.evaluate("document.documentElement.scrollWidth") == 375
    beyond = view.evaluate(
        "Array.from(document.querySelectorAll('body *')).filter(e => e.getClientRects().length && "
        "!e.closest('.skip, .why') && e.getBoundingClientRect().right > 376).map(e => e.outerHTML.slice(0, 80))"
    )
    assert beyond == []
    assert not view.locator("#without").is_visible()
    view.get_by_role("button", name="Without levers").click()
    assert view.locator("#without").is_visible()
    assert not view.locator("#with").is_visible()


def test_on_a_phone_the_list_leaves_room_and_covers_no_control_that_has_the_focus(look):
    view = look(LEVERS, width=375, height=740)
    assert view.locator("#lists").bounding_box()["height"] < 0.4 * 740
    view.get_by_label("Mute War").focus()
    for _ in range(20):
        view.keyboard.press("Shift+Tab")
        assert view.evaluate(COVERED) == ""
    view.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    view.evaluate("document.querySelector('[aria-label=\"Boost short-term\"]').focus()")
    assert view.evaluate(COVERED) == ""


@pytest.mark.parametrize("width", [375, 760, 1280])
def test_nothing_of_a_row_is_cut_or_covered_where_the_lists_are_narrow(look, width):
    view = look(LEVERS, width=width)
    settled(view, "document.getElementById('moves').textContent.includes('in')")
    assert view.eval_on_selector_all(".rec", CROWDED) == []
    # What there is no room for is in the tooltip.
    tips = view.eval_on_selector_all("#with .why", "found => found.map(why => why.title)")
    assert tips[0].startswith(view.locator("#with .why b").first.inner_text())
    assert "more head" in " ".join(tips)

    view.locator("#item-search").fill("o")
    settled(view, "document.querySelectorAll('#item-search-options .id').length > 9")
    heights = "ids => ids.map(id => id.getBoundingClientRect().height)"
    assert max(view.eval_on_selector_all("#item-search-options .id", heights)) < 24


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_told_from_what_is_behind_it(look, scheme):
    view = look(LEVERS, scheme=scheme)
    settled(view, "document.getElementById('moves').textContent.includes('in')")
    settled(view, "!document.querySelector('.stale')")
    ratio, text = view.evaluate(LOWEST_CONTRAST)
    assert ratio >= 4.5, text
    paper = view.evaluate("getComputedStyle(document.body).backgroundColor")
    light = max(map(int, paper[4:-1].split(",")))
    assert light < 40 if scheme == "dark" else light > 200


def test_the_focus_can_be_seen_and_every_control_has_a_name(look):
    view = look(LEVERS)
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.textContent").startswith("Skip to")
    view.locator("#item-search").focus()
    view.keyboard.press("Tab")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert view.evaluate(outline) == "solid"
    nameless = view.evaluate(
        "Array.from(document.querySelectorAll('button, input, select')).filter(e => !e.getAttribute('aria-label') "
        "&& !e.labels?.length && !e.textContent.trim()).length"
    )
    assert nameless == 0


def test_every_item_says_why_and_the_list_what_its_scores_are(look):
    view = look(f"{USER}&k=5")
    first = view.locator("#with .rec").first
    assert first.locator(".reason").inner_text().startswith("because you like ")
    assert first.locator(".reason").is_visible()
    assert view.locator("#with .score-name").inner_text() == "score: logit by the best head"
    # With 5 items, the service's fusion is not that of the best head alone.
    head = first.locator(".why b").inner_text()
    assert first.locator(".why").get_attribute("title").startswith(f"{head}, alone ")
    with_ten = look(USER).locator("#with .rec").first
    assert "alone" not in with_ten.locator(".why").get_attribute("title")
