"""The page of the console, without a browser: what it may load and run."""

import re
from base64 import b64encode
from hashlib import sha256

import pytest

from torchrec_priors.service.routes.console import page

HTML = page().html.decode()
POLICY = dict(part.split(" ", 1) for part in page().policy.split("; "))


@pytest.mark.parametrize(("tag", "directive"), [("style", "style-src"), ("script", "script-src")])
def test_the_policy_has_the_hash_of_the_only_style_and_the_only_script(tag, directive):
    [content] = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", HTML, re.DOTALL)
    expected = b64encode(sha256(content.encode()).digest()).decode()
    assert POLICY[directive] == f"'sha256-{expected}'"


def test_the_policy_allows_nothing_else():
    assert POLICY["default-src"] == "'none'"
    assert POLICY["connect-src"] == "'self'"
    assert "unsafe" not in page().policy
    assert "http" not in page().policy
    assert "*" not in page().policy


def test_nothing_is_loaded_from_elsewhere_and_no_handler_is_inline():
    assert not re.findall(r"""(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}""", HTML)
    assert not re.findall(r"<[^>]+\s(?:on[a-z]+|style)=", HTML)
    assert not re.findall(
        r"<(?:link|img|iframe|object|embed|base)\s[^>]*(?:src|href)=\"(?!data:)", HTML
    )


@pytest.mark.parametrize(
    "name",
    [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "srcdoc",
    ],
)
def test_nothing_can_turn_data_into_html_or_code(name):
    assert name not in HTML


def test_every_field_has_a_label():
    ids = re.findall(r"<input id=\"([^\"]+)\"", HTML)
    assert ids
    for each in ids:
        assert f'for="{each}"' in HTML
