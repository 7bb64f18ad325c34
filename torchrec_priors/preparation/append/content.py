"""Takes over the vectors of items (content) when interactions are appended."""

from collections.abc import Callable
from shlex import quote

from torchrec_priors.preparation.append.sequences import link
from torchrec_priors.preparation.append.state import State
from torchrec_priors.preparation.build.output_files import OutputFiles
from torchrec_priors.preparation.content.join import parts_of
from torchrec_priors.prepared.manifest import ContentInfo


def keep_content(
    state: State, output: OutputFiles, new_items: int, say: Callable[[str], None]
) -> None:
    """Puts the files of content into the new data set. Old items keep their vectors.

    Args:
        state: the data set before the append.
        output: the files of the new data set.
        new_items: the number of new items, which have no vectors yet.
        say: called with the command that gives them vectors.
    """
    # Joined content needs that of its parts, so its command follows theirs.
    content = {info.name: info for info in state.manifest.content}
    for info in sorted(content.values(), key=lambda info: _depth(info, content)):
        _link(state, output, info.path)
        if new_items:
            say(
                f"content {info.name}: {new_items:,} new items have no vectors;"
                f" to add them: {_command(state, info)}"
            )


def _link(state: State, output: OutputFiles, path: str) -> None:
    output.make(path, lambda file: link(state.folder / path, file))


def _depth(info: ContentInfo, content: dict[str, ContentInfo]) -> int:
    """Returns how often content was joined: 0 if it was not."""
    if info.made_by["kind"] != "joined":
        return 0
    # Content that was replaced may be a part of itself, by way of others.
    others = {name: other for name, other in content.items() if name != info.name}
    parts = [others[name] for name in info.made_by["parts"] if name in others]
    return 1 + max((_depth(part, others) for part in parts), default=0)


def _command(state: State, info: ContentInfo) -> str:
    """Returns the command that adds vectors for all items."""
    made = info.made_by
    action = {"model": "encode", "tokens": "tokenize", "joined": "join"}.get(made["kind"], "add")
    words = [
        f"torchrec-priors content {action}",
        "--data",
        quote(str(state.folder)),
        "--name",
        quote(info.name),
    ]

    if action == "join":
        words += ["--of", quote(",".join(parts_of(info)))]
    elif action != "add":
        words += ["--model", quote(made["model"])]
        if "images" in made:
            words += ["--images", quote(made["images"]), "--image-folder", "FOLDER"]
        else:
            words += ["--columns", quote(",".join(made["columns"]))]

        # Earlier releases had no precision.
        if made.get("precision", "fp32") != "fp32":
            words += ["--precision", made["precision"]]
        if action == "tokenize":
            words += ["--prompt", quote(made["prompt"]), "--tokens", str(made["tokens"])]
    else:
        words += ["--vectors", "FILE"]
        if made["made_with"]:
            words += ["--made-with", quote(made["made_with"])]
    return " ".join(words)
