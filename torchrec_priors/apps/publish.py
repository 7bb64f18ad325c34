"""The app `publish`: copies a trained run into a folder of versions that services follow."""

from pathlib import Path
from typing import Annotated

from typer import Option

from torchrec_priors.apps import command
from torchrec_priors.apps.command import TRUST
from torchrec_priors.apps.threads import THREADS, check_threads, use_threads
from torchrec_priors.common.amounts import as_text
from torchrec_priors.common.files import check_file
from torchrec_priors.errors import UserError
from torchrec_priors.publishing import KEEP


def publish(
    to: Annotated[Path, Option(metavar="FOLDER", help="Folder of published models.")],
    run: Annotated[
        str | None,
        Option(
            metavar="PATH|URI",
            help="Folder of a trained run. Without it, --version names a version that was "
            "published before, which becomes the current one again.",
        ),
    ] = None,
    version: Annotated[
        str | None,
        Option(metavar="NAME", help="Name of the version. By default, the time in UTC."),
    ] = None,
    keep: Annotated[
        int,
        Option(
            min=2,
            max=1000,
            help="Number of versions to keep, with the new one. Older ones are removed.",
        ),
    ] = KEEP,
    canary: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Requests that a service asks before it uses the version: a text file with a JSON "
            'object on each line, such as \'{"user": 7, "k": 5}\'. By default, some users of the '
            "data set are asked for.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        Option(metavar="PATH|URI", help="Prepared data set, if it has moved since training."),
    ] = None,
    trust: Annotated[bool, Option("--trust", help=TRUST)] = False,
    threads: Annotated[int | None, Option(help=THREADS)] = None,
) -> None:
    """Copies the best checkpoint, and what else serving reads, into a folder of versions.

    The version is loaded and tried out first. Services that follow the folder then use it.
    """
    check_threads(threads)
    if run is None:
        if version is None:
            raise UserError("--run: it is missing: name the folder of a trained run")
        needs_run = {"--canary": canary, "--data": data, "--trust": trust, "--threads": threads}
        for option, given in needs_run.items():
            if given:
                raise UserError(f"{option}: it needs --run: a published version is not changed")
    if canary is not None:
        check_file(canary, "--canary")

    with command.starting():
        from torchrec_priors.publishing.canary import read_requests
        from torchrec_priors.publishing.publish import publish as write_version
        from torchrec_priors.publishing.publish import publish_again

    if run is None:
        assert version is not None
        published = publish_again(to, version, keep=keep)
    else:
        requests = None
        if canary is not None:
            requests = read_requests(canary)
        use_threads(threads)
        published = write_version(
            run, to, version, keep=keep, data=data, trust=trust, canary=requests
        )

    manifest = published.version
    print(
        f"version {manifest.name} ({manifest.checkpoint}, {as_text(manifest.bytes)}) is current in "
        f"{to}"
    )
    if published.previous not in (None, manifest.name):
        print(f"before: {published.previous}")
    if published.removed:
        print(f"removed: {', '.join(published.removed)}")


def main() -> None:
    command.run(publish, single_process=True)


if __name__ == "__main__":
    main()
