"""Uploads the folder of a pushed run to the Hugging Face hub, in one commit."""

from pathlib import Path

from torchrec_priors.errors import UserError
from torchrec_priors.remote.hub import Repository, explaining_hub
from torchrec_priors.training.run.folder import SEEN
from torchrec_priors.training.run.pushed import DATA, FILE

_LIBRARY = "torchrec-priors"
# Files of an earlier push, which the new one may not have.
_REPLACED = ["model*.safetensors", "model.safetensors.index.json", f"{DATA}/*", "serving/*", SEEN]


def check_login(repository: Repository) -> None:
    """Raises UserError if nobody is logged in, before a run is loaded."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise UserError(
            f"--to: nobody is logged in to the hub, so '{repository.name}' cannot be written: run "
            "`hf auth login`, or set HF_TOKEN"
        )


def upload(folder: Path, repository: Repository, *, private: bool) -> str:
    """Uploads a folder; returns the address of the commit.

    A repository or branch that does not exist is created. Files of an earlier push that the folder
    does not have are removed, and other files stay.

    Args:
        folder: the folder of the pushed run.
        repository: the repository, with the branch as its revision.
        private: whether a new repository is private.

    Raises:
        UserError: the hub refuses.
        OutsideError: the hub does not answer.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name=_LIBRARY)
    with explaining_hub(f"--to: 'hf://{repository.name}'"):
        api.create_repo(repository.name, private=private, exist_ok=True)
        if repository.revision is not None:
            api.create_branch(repository.name, branch=repository.revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository.name,
            folder_path=folder,
            revision=repository.revision,
            delete_patterns=_REPLACED,
            commit_message=f"Push a run of torchrec_priors ({FILE})",
        )
    return str(commit.commit_url)
