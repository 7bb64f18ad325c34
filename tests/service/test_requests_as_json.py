"""What rank 0 tells the other ranks is the same request."""

from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.service.requests_as_json import requests_of, text_of
from torchrec_priors.serving.levers import Levers
from torchrec_priors.serving.request import Request
from torchrec_priors.serving.user_context import Event, UserContext

ids = st.integers(-(2**63), 2**64 - 1) | st.text()
events = st.builds(Event, ids, st.none() | st.integers(), st.none() | st.text())
entries = st.lists(ids | events)
names = st.lists(st.text())
levers = st.builds(
    Levers,
    st.none() | st.lists(st.text(), min_size=1),
    names,
    st.dictionaries(st.text(), st.floats(0, exclude_min=True, allow_infinity=False)),
    st.dictionaries(st.text(), st.floats(0, 1, exclude_min=True), max_size=5),
)
contexts = st.builds(
    UserContext,
    st.none() | ids,
    st.none() | entries,
    entries,
    st.dictionaries(st.text(), st.text() | names),
    st.lists(events, max_size=2),
)
requests = st.builds(
    Request,
    contexts,
    st.integers(1, 1000),
    levers,
    st.none() | st.lists(ids),
    st.none() | st.lists(ids),
    st.booleans(),
    explain=st.booleans(),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(requests, max_size=3))
def test_requests_come_back_as_they_were(sent):
    received = requests_of(text_of(sent))
    assert received == sent
    # The order of the shares decides which of them has priority.
    for one, other in zip(received, sent, strict=True):
        assert list(one.levers.at_least) == list(other.levers.at_least)
        assert [type(entry) for entry in one.context.session] == [
            type(entry) for entry in other.context.session
        ]


def test_deadlines_stay_here():
    (request,) = requests_of(text_of([Request(UserContext(7), deadline=1.5)]))
    assert request.deadline is None
