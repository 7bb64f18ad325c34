"""A service in this process, and calls of it over HTTP without sockets."""

import asyncio
import io
import json
import threading

import httpx

from torchrec_priors.service.app import make_app
from torchrec_priors.service.batcher import Batcher
from torchrec_priors.service.logs import Lines, RequestLog
from torchrec_priors.service.parts import Limits, Parts
from torchrec_priors.service.versions import Served, Versions
from torchrec_priors.serving.run import LoadedRun
from torchrec_priors.state.sqlite import SqliteStore
from torchrec_priors.state.store import StoreGoneError


class Switched:
    """A store that can be gone, or slow.

    Attributes:
        gone: whether it cannot be used.
        gate: reads wait for this event.
    """

    def __init__(self, store):
        self._store = store
        self.gone = False
        self.gate = threading.Event()
        self.gate.set()

    def __getattr__(self, name):
        def called(*arguments):
            if name.startswith("last"):
                self.gate.wait(10)
            if self.gone:
                raise StoreGoneError("the store of users' events does not answer")
            return getattr(self._store, name)(*arguments)

        return called


class Service:
    """A service.

    Attributes:
        run: its run.
        parts, app: its parts and its application.
        store: its store.
        gate: batches wait for this event.
    """

    def __init__(self, run, file, *, version="v1", queue=512, **parts):
        self.run = run
        self.gate = threading.Event()
        self.gate.set()
        self.store = Switched(SqliteStore(file))
        self._text = io.StringIO()
        versions = Versions(Served(version, run, 0.0) if run is not None else None)
        batcher = Batcher(versions, queue=queue, answer=self._answer)
        log = RequestLog(Lines(self._text))
        # A machine that is busy with other tests must not make requests late.
        limits = Limits(deadline_s=60.0)
        given = {
            "store": self.store,
            "model_name": "films",
            "log": log,
            "limits": limits,
            **parts,
        }
        self.parts = Parts(versions, batcher, **given)
        self.app = make_app(self.parts)
        self._loop = asyncio.new_event_loop()

    def _answer(self, run, requests):
        assert self.gate.wait(10)
        return LoadedRun.answer(run, requests)

    def call(self, method, path, body=None, *, raw=None, headers=None):
        """Makes a call; returns the response."""
        return self.calls([(method, path, body, raw, headers)])[0]

    def calls(self, calls):
        """Makes calls at the same time; returns the responses."""
        return self.do(asyncio_gather(self, calls))

    def do(self, what):
        """Runs a coroutine to its end."""
        return self._loop.run_until_complete(what)

    def recommend(self, **body):
        """Recommends; returns the answer."""
        response = self.call("POST", "/v1/recommend", body)
        assert response.status_code == 200, response.text
        return response.json()

    def post_events(self, *events):
        """Posts events, given as (event id, user, item, time, event type)."""
        names = ("event_id", "user", "item", "time", "event")
        listed = [dict(zip(names, one, strict=False)) for one in events]
        return self.call("POST", "/v1/events", {"events": listed})

    def log(self):
        """The lines of the log so far."""
        self.parts.log.lines.close()
        return [json.loads(line) for line in self._text.getvalue().splitlines()]

    def metric(self, name, **labels):
        """The value of a metric, or None."""
        return self.parts.metrics.registry.get_sample_value(name, labels)

    def close(self):
        self.gate.set()
        self.store.gate.set()
        self.store.gone = False
        self.do(self.parts.batcher.drain(5))
        self.parts.log.lines.close()
        self.store.close()
        self._loop.close()


async def asyncio_gather(service, calls):
    transport = httpx.ASGITransport(service.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

        def request(method, path, body=None, raw=None, headers=None):
            content = raw if body is None else json.dumps(body)
            return client.request(method, path, content=content, headers=headers)

        return await asyncio.gather(*(request(*call) for call in calls))


def same(answer, found, *, explain=False):
    """Whether an answer over HTTP is the answer of the run, to the last bit."""
    items = [
        {
            "item_id": one.item_id,
            "title": one.title,
            "score": one.score,
            "head": one.head,
            **(explained_parts(one) if explain else {}),
        }
        for one in found
    ]
    return (
        answer["items"] == items
        and answer["source"] == found.source
        and answer["skipped"] == found.skipped.counts()
        and answer["short"] == list(found.short)
        and answer["score_name"] == found.score_name
    )


def explained_parts(item):
    """The fields that an item has only with `explain`."""
    return {name: getattr(item, name) for name in ("reason", "head_score", "head_scores")}
