"""What the service is put together from."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from torchrec_priors.service.batcher import Batcher
from torchrec_priors.service.logs import RequestLog
from torchrec_priors.service.metrics import Metrics
from torchrec_priors.service.versions import Versions

if TYPE_CHECKING:
    from torchrec_priors.state.store import UserStore

LOADING = "the model is being loaded"


@dataclass(frozen=True)
class Limits:
    """What a client may ask of the service.

    Attributes:
        body_bytes: the most bytes of a body.
        body_s: the most seconds in which a client may send a body.
        deadline_s: the seconds in which a request is answered, unless it says `timeout_ms`.
        state_s: the most seconds that a request waits for the events of its user.
        stored_events: the most stored events that a request uses, the newest ones.
    """

    body_bytes: int = 1_000_000
    body_s: float = 10.0
    deadline_s: float = 1.0
    state_s: float = 0.25
    stored_events: int = 10_000


class Following(Protocol):
    """What follows a folder of published models."""

    def described(self) -> dict[str, object]:
        """Returns its state as values that JSON has, for GET /v1/model."""
        ...

    def rollback(self) -> str:
        """Goes back to the previous version and stays there; returns its name."""
        ...


@dataclass
class Parts:
    """The parts of a service. All of its routes share them.

    Attributes:
        versions: the versions of the model.
        batcher: answers requests with the current version.
        store: the events of users; None if none are kept.
        model_name: the name of the model in answers.
        limits: what a client may ask.
        token: what a client must send as `Authorization: Bearer TOKEN`; None if everybody may call.
        hosts: the names by which clients may call the service, without ports; None for any name.
            With names, a page of another site cannot call a service of this machine.
        origins: the origins whose pages may call the service, such as "https://shop.example".
        metrics: counters and histograms.
        log: writes a line for each request.
        following: follows a folder of published models; None for a single run.
        draining: whether the service ends: it answers what it has, and takes nothing new.
    """

    versions: Versions
    batcher: Batcher
    store: "UserStore | None" = None
    model_name: str = "model"
    limits: Limits = field(default_factory=Limits)
    token: str | None = None
    hosts: frozenset[str] | None = None
    origins: tuple[str, ...] = ()
    metrics: Metrics = field(default_factory=Metrics)
    log: RequestLog = field(default_factory=RequestLog)
    following: Following | None = None
    draining: bool = False

    @property
    def unready(self) -> str | None:
        """Why the service cannot take requests now; None if it can."""
        if self.draining:
            return "the service ends"
        if self.versions.current is None:
            return LOADING
        return None
