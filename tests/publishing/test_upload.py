"""What is uploaded to a hub is what is fetched from it, and mistakes are one line. The hub is a server of the test."""

import pytest
from fake_hub import fake_hub

from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.publishing.push.upload import upload
from torchrec_priors.remote.hub import Repository, fetch_run, repository_of
from torchrec_priors.remote.uri import Uri

huggingface_hub = pytest.importorskip("huggingface_hub", reason="pip install 'torchrec-priors[hf]'")

FILES = {
    "README.md": b"---\nlicense: mit\n---\n\n# a model\n",
    "config.toml": b"seed = 0\n",
    "pushed.json": b"{}\n",
    "model.safetensors": bytes(range(256)),
    "data/manifest.json": b"[]\n",
}


def _use(monkeypatch, url, tmp_path):
    """Lets the client call this hub; it reads the environment only when it is imported."""
    address = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with fake_hub("shop/movies") as hub:
        _use(monkeypatch, hub.url, tmp_path)
        yield hub


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        file = tmp_path / "pushed" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return tmp_path / "pushed"


def _content(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_what_is_fetched_is_what_was_uploaded(hub, folder):
    address = upload(folder, Repository("shop/movies"), private=True)
    assert address.startswith(f"{hub.url}/shop/movies/commit/")
    assert hub.private is True
    assert hub.cards == [FILES["README.md"].decode()]
    assert hub.files["main"] == FILES

    # What else is in the repository is not fetched.
    hub.files["main"]["old.pkl"] = b"x"
    first = fetch_run(Uri("hf://shop/movies"))
    assert _content(first) == FILES

    # A second push replaces the files of the first one, and keeps what somebody else has added.
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    upload(folder, Repository("shop/movies", "wide"), private=False)
    assert set(hub.files) == {"main", "wide"}
    assert "model.safetensors" not in hub.files["wide"]
    assert "old.pkl" in hub.files["wide"]
    assert _content(fetch_run(Uri("hf://shop/movies@wide"))) == _content(folder)
    assert _content(fetch_run(Uri("hf://shop/movies@main"))) == FILES
    commit = hub.commit_of("main")
    assert fetch_run(Uri(f"hf://shop/movies@{commit}")) == first


def test_mistakes(hub, folder):
    with pytest.raises(UserError, match="write hf://org/name"):
        repository_of("hf://movies", "--run")
    upload(folder, Repository("shop/movies"), private=False)
    with pytest.raises(UserError, match="has no such revision"):
        fetch_run(Uri("hf://shop/movies@nowhere"))
    with pytest.raises(UserError, match="hf://shop/films' does not exist"):
        fetch_run(Uri("hf://shop/films"))
    hub.forbids = True
    with pytest.raises(UserError, match="hf auth login"):
        upload(folder, Repository("shop/movies"), private=False)


def test_a_hub_that_does_not_answer(folder, tmp_path, monkeypatch):
    _use(monkeypatch, "http://127.0.0.1:9", tmp_path)
    with pytest.raises(OutsideError, match="does not answer"):
        fetch_run(Uri("hf://shop/movies"))
    with pytest.raises(OutsideError, match="does not answer"):
        upload(folder, Repository("shop/movies"), private=False)
