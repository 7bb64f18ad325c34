"""A service that answers from a few films by a simple rule, for tests of the console.

It has the paths that the console calls, and its answers have the shapes of the service's. Every
film has the score of its place; heads are genres, within a short and a long term.
"""

import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from torchrec_priors.service.routes.console import page

FILMS = [
    (393, "Mrs. Doubtfire (1993)", ("Comedy",)),
    (739, "Pretty Woman (1990)", ("Comedy", "Romance")),
    (402, "Ghost (1990)", ("Romance", "Thriller")),
    (451, "Grease (1978)", ("Comedy", "Romance", "Musical")),
    (403, "Batman (1989)", ("Action", "Crime", "Drama")),
    (161, "Top Gun (1986)", ("Action", "Romance")),
    (72, "Mask, The (1994)", ("Comedy", "Fantasy", "Crime")),
    (655, "Stand by Me (1986)", ("Drama",)),
    (568, "Speed (1994)", ("Action", "Thriller")),
    (288, "Scream (1996)", ("Horror", "Thriller")),
    (50, "Star Wars (1977)", ("Action", "Sci-Fi")),
    (181, "Return of the Jedi (1983)", ("Action", "Sci-Fi")),
    (318, "Schindler's List (1993)", ("Drama", "War")),
    (98, "Silence of the Lambs, The (1991)", ("Drama", "Thriller")),
    (95, "Aladdin (1992)", ("Animation", "Comedy", "Musical")),
    (71, "Lion King, The (1994)", ("Animation", "Musical")),
    (1232, "Madonna: Truth or Dare (1991)", ("Documentary",)),
    (1065, "Koyaanisqatsi (1983)", ("Documentary", "War")),
    (48, "Hoop Dreams (1994)", ("Documentary",)),
    (134, "Citizen Kane (1941)", ("Drama",)),
    (474, "Dr. Strangelove or: How I Learned to Stop Worrying and Love the Bomb (1963)", ("War",)),
    (9007199254740993, "A film with a long id", ("Sci-Fi",)),
    (99, "", ("Animation",)),
]
TERMS = {"short-term": 0.0, "long-term": -0.2}
GENRES = sorted({genre for _, _, genres in FILMS for genre in genres})
NAMES = {"name": "films", "version": "v7"}
USERS = [str(number) for number in range(1, 120)]
GROUPS = ["M", "F"]
NO_HEAD = "only, mute: no head is left: name fewer heads in mute, or more in only"


def model_answer():
    """The answer of GET /v1/model."""
    return {
        "model": NAMES,
        "previous": None,
        "loaded_at": 1.0,
        "checkpoint": "step-00000100",
        "data_set": "films",
        "items": len(FILMS),
        "users": len(USERS),
        "events": ["4 stars", "5 stars"],
        "heads": [f"{term} / {genre}" for genre in GENRES for term in TERMS],
        "priors": [
            _prior("temporal", list(TERMS)),
            _prior("gender", GROUPS, of_users=True),
            _prior("genre", GENRES, restricts_items=True),
        ],
        "limits": {"body_bytes": 1_000_000, "deadline_ms": 1_000, "requests": 256, "events": 1_000},
        "keeps_events": False,
        "following": None,
    }


def user_answer(user):
    """The answer of GET /v1/users/USER."""
    past = [
        {
            "item_id": item,
            "title": title,
            "time": 891_000_000_000 + number * 86_400_000,
            "event": "4 stars",
            "source": "data_set",
        }
        for number, (item, title, _) in enumerate(FILMS[10:16])
    ]
    return {
        "user": user,
        "version": NAMES["version"],
        "in_data_set": True,
        "forgotten": False,
        "groups": {"gender": ["F"]},
        "interactions": 272,
        "events": 0,
        "state": "none",
        "history": past,
    }


def items_answer(query, limit):
    """The answer of GET /v1/items."""
    found = [
        {"item_id": item, "title": title}
        for item, title, _ in FILMS
        if query.lower() in title.lower() or query == str(item)
    ]
    return {"items": found[:limit]}


def recommended(body):
    """The answer of POST /v1/recommend."""
    levers = body.get("levers") or {}
    seen = {str(item) for item in [*body.get("history", []), *body.get("session", [])]}
    shift = len(seen) + len(str(body.get("user", "")))
    films = []
    for number, (item, title, genres) in enumerate(FILMS):
        scores = {
            f"{term} / {genre}": 4 - 0.1 * ((number + shift) % len(FILMS)) + of_term - 0.03 * place
            for place, genre in enumerate(genres)
            for term, of_term in TERMS.items()
            if not {term, genre} & set(levers.get("mute", ()))
        }
        for head in scores:
            for name, factor in levers.get("boost", {}).items():
                scores[head] += math.log(factor) * (name in head.split(" / "))
        if scores and str(item) not in seen:
            head = max(scores, key=scores.get)
            films.append((scores[head], item, title, head, scores, genres))
    films.sort(key=lambda film: -film[0])

    k = body["k"]
    first = [
        film
        for genre, share in levers.get("at_least", {}).items()
        for film in [each for each in films if genre in each[5]][: math.ceil(share * k)]
    ]
    chosen = sorted([*first, *[film for film in films if film not in first]][:k], reverse=True)
    items = [
        {
            "item_id": item,
            "title": title,
            "score": score,
            "head": head,
            "reason": f"because you like {head.split(' / ')[1]} (4 of the 9 items in your history)",
            "head_score": score - 0.5 * (k == 5),
            "head_scores": scores,
        }
        for score, item, title, head, scores, _ in chosen
    ]
    return {
        "model": NAMES,
        "source": "model" if body.get("user") or seen else "popularity",
        "score_name": "logit by the best head",
        "items": items,
        "skipped": {},
        "short": [],
        "state": "none",
        "timing_ms": {"queued": 0.1, "computed": 3.2, "total": 3.9},
    }


class FakeService:
    """The service, on a port of its own.

    Attributes:
        url: its address.
        bodies: the bodies of POST /v1/recommend, in their order.
        tokens: the `Authorization` headers of these calls.
        takes: the seconds that a recommendation takes.
        problems: statuses and messages with which the next recommendations are refused.
        token: what calls must carry; None for nothing.
    """

    def __init__(self):
        self.bodies = []
        self.tokens = []
        self.takes = 0.0
        self.problems = []
        self.token = None
        handler = type("Handler", (_Handler,), {"service": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    service: FakeService
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        split = urlsplit(self.path)
        query = parse_qs(split.query)
        text = query.get("q", [""])[0]
        limit = int(query.get("limit", ["20"])[0])
        if split.path == "/":
            policy = {"Content-Security-Policy": page().policy}
            self._send(200, page().html, "text/html; charset=utf-8", policy)
        elif self._is_refused():
            return
        elif split.path == "/v1/model":
            self._json(200, model_answer())
        elif split.path == "/v1/items":
            self._json(200, items_answer(text, limit))
        elif split.path == "/v1/users":
            self._json(200, {"users": [user for user in USERS if user.startswith(text)][:limit]})
        elif split.path.startswith("/v1/users/"):
            self._json(200, user_answer(unquote(split.path.removeprefix("/v1/users/"))))
        else:
            self._error(404, "there is no such path")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._is_refused():
            return
        self.service.bodies.append(body)
        self.service.tokens.append(self.headers.get("Authorization"))
        time.sleep(self.service.takes)
        muted = set((body.get("levers") or {}).get("mute", ()))
        if self.service.problems:
            self._error(*self.service.problems.pop(0))
        elif muted >= set(TERMS) or muted >= set(GENRES):
            self._error(422, NO_HEAD, "no_head")
        else:
            self._json(200, recommended(body))

    def log_message(self, *_):
        pass

    def _is_refused(self):
        token = self.service.token
        if token is None or self.headers.get("Authorization") == f"Bearer {token}":
            return False
        self._error(401, "Authorization: send 'Bearer TOKEN' with the token of the service")
        return True

    def _error(self, status, message, code="fake"):
        headers = {"Retry-After": "1"} if status in (429, 503) else {}
        error = {"code": code, "message": message, "request_id": "1"}
        self._json(status, {"error": error}, headers)

    def _json(self, status, answer, headers=None):
        self._send(status, json.dumps(answer).encode(), "application/json", headers or {})

    def _send(self, status, content, kind, headers):
        try:
            self.send_response(status)
            for name, value in {
                "Content-Type": kind,
                "Content-Length": str(len(content)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            self.close_connection = True  # the page has aborted the call


def _prior(name, groups, *, of_users=False, restricts_items=False):
    return {
        "name": name,
        "groups": groups,
        "of_users": of_users,
        "restricts_items": restricts_items,
    }
