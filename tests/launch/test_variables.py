"""What a launcher says is taken whole or refused at once, in one line that names the variable and the remedy."""

import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.ranks.variables import Launch, read_launch

WHOLE = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node", "MASTER_PORT": "29500"}


def test_all_that_is_needed_is_a_launch():
    assert read_launch(WHOLE) == Launch(1, 4, None, None, "node", 29500, agent=False)
    more = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    assert read_launch(WHOLE | more) == Launch(1, 4, 0, 2, "node", 29500, agent=True)


def test_a_place_alone_and_empty_variables_are_no_launch():
    assert read_launch({}) is None
    assert read_launch({"MASTER_ADDR": "node", "MASTER_PORT": "29500"}) is None
    assert read_launch({"RANK": "", "WORLD_SIZE": " "}) is None


@pytest.mark.parametrize(
    "left", [["RANK"], ["WORLD_SIZE"], ["LOCAL_RANK"], ["LOCAL_WORLD_SIZE"], ["RANK", "WORLD_SIZE"]]
)
def test_leftovers_are_named_with_what_is_missing_and_how_to_be_rid_of_them(left):
    with pytest.raises(UserError) as refused:
        read_launch(dict.fromkeys(left, "1"))
    message = str(refused.value)
    assert message.startswith(", ".join(left) + " ")
    assert "not" in message
    assert "MASTER_ADDR, MASTER_PORT" in message
    assert f"`unset {' '.join(left)}`" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RANK", "4"),
        ("RANK", "-1"),
        ("RANK", "one"),
        ("RANK", "1.0"),
        ("RANK", "²"),
        ("WORLD_SIZE", "0"),
        ("WORLD_SIZE", "9" * 5000),
        ("LOCAL_RANK", "4"),
        ("LOCAL_RANK", "x"),
        ("LOCAL_WORLD_SIZE", "5"),
        ("MASTER_PORT", "0"),
        ("MASTER_PORT", "65536"),
        ("MASTER_PORT", "http"),
    ],
)
def test_nonsense_is_named(name, value):
    with pytest.raises(UserError, match=rf"^{name} = '") as refused:
        read_launch(WHOLE | {name: value})
    assert len(str(refused.value)) < 300
