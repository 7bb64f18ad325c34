"""A headless Chromium, and what tests of pages measure in it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# Contrast of every text with what lies behind it, by WCAG's formula: [ratio, text] of the lowest.
LOWEST_CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return Array.from(canvas.getImageData(0, 0, 1, 1).data);
  };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  let lowest = [99, ''];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement, text = walk.currentNode.data.trim();
    if (!text || !element.getClientRects().length || element.closest('title, desc')) continue;
    const style = getComputedStyle(element);
    const ink = rgba(element.closest('svg') ? style.fill : style.color);
    const [high, low] = [light(ink), light(behind(element))].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < lowest[0]) lowest = [ratio, text];
  }
  return lowest;
}"""


@contextmanager
def chromium_of(sync_api: Any) -> Iterator[Any]:
    """Starts a browser; skips the test if there is none.

    Args:
        sync_api: the module `playwright.sync_api`.
    """
    with sync_api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        names = ("chromium", "chromium-browser", "google-chrome")
        found = own if shutil.which(own) else next(filter(None, map(shutil.which, names)), None)
        if found is None:
            pytest.skip(
                "there is no Chromium: playwright install chromium, or the system's package"
            )
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()
