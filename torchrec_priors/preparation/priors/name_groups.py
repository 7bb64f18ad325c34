"""Sets what the groups of a prior are called in reasons that people read.

The words are in the manifest only. Runs check the files of a data set, so the words of a prior may
change at any time, also after training.
"""

from dataclasses import replace

from torchrec_priors.common.scratch import scratch_folder
from torchrec_priors.common.system_errors import explaining
from torchrec_priors.errors import UserError, shown
from torchrec_priors.preparation.priors.add_prior import locked, with_priors
from torchrec_priors.prepared.manifest import FILE, Manifest, PriorInfo, read_manifest
from torchrec_priors.prepared.opening import manifest_in
from torchrec_priors.remote.cache import default_cache
from torchrec_priors.remote.store import Store
from torchrec_priors.remote.uri import Place, Uri

GROUP = "{}"  # stands for the name of a group
_LONGEST = 100  # characters


def name_groups(place: Place, name: str, words: str) -> PriorInfo:
    """Sets the words of a prior.

    Args:
        place: the folder of the data set, local or in a store.
        name: the name of the prior.
        words: what a group is called, with `{}` in the place of its name, such as "{} films"; empty
            for the usual words.

    Returns:
        The prior with its words.

    Raises:
        UserError: there is no such prior, the words cannot be used, or the folder cannot be
            written.
    """
    _check(words)
    if isinstance(place, Uri):
        return _name_there(place, name, words)

    with explaining(f"--data: '{place}'"), locked(place):
        manifest = _with_words(read_manifest(place), name, words)
        manifest.write(place)
    return manifest.prior(name)


def _name_there(uri: Uri, name: str, words: str) -> PriorInfo:
    """Sets the words of a prior of a data set in a store, which has no locks."""
    store = Store(uri, "--data")
    store.require_writable()
    cache = default_cache()
    with cache.writable(), scratch_folder(cache.subfolder("scratch"), "prior") as scratch:
        manifest = _with_words(manifest_in(store), name, words)
        manifest.write(scratch)
        store.put(scratch / FILE, FILE)
    return manifest.prior(name)


def _with_words(manifest: Manifest, name: str, words: str) -> Manifest:
    named = replace(manifest.prior(name), words=words)
    priors = [named if prior.name == name else prior for prior in manifest.priors]
    return with_priors(manifest, priors, manifest.files)


def _check(words: str) -> None:
    """Raises UserError if a sentence cannot contain the words."""
    if not words:
        return
    if words.count(GROUP) != 1:
        raise UserError(
            f"--words: {shown(words)} must have {GROUP} once, where the name of a group stands, as "
            "in '{} films'"
        )
    if not words.isprintable() or len(words) > _LONGEST:
        raise UserError(
            f"--words: {shown(words)} must be one line of at most {_LONGEST} printable characters"
        )
