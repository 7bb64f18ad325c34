"""The app `serve`: answers requests for recommendations over HTTP."""

import re
from pathlib import Path
from typing import Annotated

from typer import Option

from torchrec_priors.apps import command
from torchrec_priors.apps.command import RUN, TRUST
from torchrec_priors.apps.threads import THREADS, check_threads, use_threads
from torchrec_priors.errors import UserError
from torchrec_priors.remote.uri import Uri, place_of
from torchrec_priors.service.listening import check_safe, read_token

_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]+)?|https?://\[[0-9a-f:]+\](:[0-9]+)?")


def serve(
    run: Annotated[str | None, Option(metavar="PATH|URI", help=RUN)] = None,
    follow: Annotated[
        Path | None,
        Option(
            help="Folder of published models, in place of --run. The service changes to each "
            "version that is published there."
        ),
    ] = None,
    poll_s: Annotated[
        float, Option(help="Seconds between two looks at the folder of --follow.")
    ] = 5.0,
    host: Annotated[
        str,
        Option(
            help="Address to listen on. By default only this machine can reach the service. Other "
            "addresses need --token-file or --open."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, Option(help="Port to listen on; 0 for any free port.")] = 8000,
    state: Annotated[
        str | None,
        Option(
            metavar="URI",
            help="Where events of users are kept: sqlite:PATH, redis://HOST:PORT/NUMBER, or none: "
            "for nowhere. [state/users.sqlite in the folder of the run]",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        Option(help="File with the token that every call must carry."),
    ] = None,
    open: Annotated[
        bool, Option("--open", help="Let everybody who can reach the address call the service.")
    ] = False,
    cors: Annotated[
        list[str] | None,
        Option(
            metavar="ORIGIN",
            help="Let pages of this origin call the service, such as https://shop.example. "
            "Can be repeated.",
        ),
    ] = None,
    queue: Annotated[
        int, Option(help="The most requests that wait. Further ones are refused (429).")
    ] = 512,
    batch: Annotated[int, Option(help="The most requests that are answered together.")] = 64,
    wait_ms: Annotated[
        float, Option(help="The most milliseconds that a request waits for others.")
    ] = 2.0,
    deadline_ms: Annotated[
        int,
        Option(help="Milliseconds in which a request is answered, unless it says timeout_ms."),
    ] = 1000,
    drain_s: Annotated[
        float,
        Option(help="The most seconds that requests in flight get when the service is ended."),
    ] = 20.0,
    max_body: Annotated[int, Option(help="The most bytes of a request's body.")] = 1_000_000,
    cache_mb: Annotated[
        int,
        Option(
            help="The most memory, in MB, for users who were asked for before. While their "
            "histories stay the same, they are answered faster."
        ),
    ] = 256,
    name: Annotated[
        str | None, Option(help="Name of the model in answers. [name of the folder]")
    ] = None,
    data: Annotated[
        str | None,
        Option(metavar="PATH|URI", help="Prepared data set, if it has moved since training."),
    ] = None,
    trust: Annotated[bool, Option("--trust", help=TRUST)] = False,
    threads: Annotated[int | None, Option(help=THREADS)] = None,
) -> None:
    """Answers requests for recommendations over HTTP, until it is ended.

    Several processes serve one model that is too large for one: the first of them speaks HTTP.
    """
    trained = None if run is None else place_of(run, "--run")
    place = trained or follow
    if place is None or (run is not None and follow is not None):
        raise UserError(
            "give either --run, the folder of a trained run, or --follow, a folder of published "
            "models"
        )
    if isinstance(trained, Uri) and state is None:
        raise UserError(
            f"--state: name where events of users are kept, because '{trained}' is in a store"
        )
    _check_least("--queue", queue, 1)
    _check_least("--batch", batch, 1)
    _check_least("--wait-ms", wait_ms, 0)
    _check_least("--deadline-ms", deadline_ms, 1)
    _check_least("--drain-s", drain_s, 0)
    _check_least("--max-body", max_body, 1)
    _check_least("--cache-mb", cache_mb, 0)
    if poll_s <= 0:
        raise UserError(f"--poll-s must be above 0, not {poll_s}")
    for origin in cors or ():
        if not _ORIGIN.fullmatch(origin):
            raise UserError(
                f"--cors: '{origin}' is no origin: write it as browsers do, such as "
                "https://shop.example or http://localhost:3000"
            )
    check_threads(threads)
    token = None if token_file is None else read_token(token_file)
    check_safe(host, token, is_open=open)

    # These modules import PyTorch, which takes seconds. `command.starting` would say so in words,
    # but the log of a service is JSON from its first line.
    from torchrec_priors.service.loading import Loading
    from torchrec_priors.service.parts import Limits
    from torchrec_priors.service.server import Settings
    from torchrec_priors.service.server import serve as serve_until_ended

    use_threads(threads)
    serve_until_ended(
        Settings(
            run=trained,
            follow=follow,
            poll_s=poll_s,
            loading=Loading(data, trust, threads, cache_mb << 20),
            name=name or place.absolute().name,
            host=host,
            port=port,
            token=token,
            origins=tuple(cors or ()),
            state=state,
            queue=queue,
            batch=batch,
            wait_s=wait_ms / 1e3,
            drain_s=drain_s,
            limits=Limits(body_bytes=max_body, deadline_s=deadline_ms / 1e3),
        ),
        on_ready=lambda url: print(f"Served at {url}", flush=True),
    )


def _check_least(option: str, value: float, least: int) -> None:
    if value < least:
        raise UserError(f"{option} must be at least {least}, not {value}")


def main() -> None:
    command.run(serve)


if __name__ == "__main__":
    main()
