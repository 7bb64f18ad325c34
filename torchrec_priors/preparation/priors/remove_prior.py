"""Removes a prior that was added to a prepared data set."""

from torchrec_priors.common.files import check_no_link
from torchrec_priors.common.scratch import scratch_folder
from torchrec_priors.common.system_errors import explaining
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.priors.add_prior import locked, with_priors
from torchrec_priors.prepared.manifest import FILE, Manifest, PriorInfo, read_manifest
from torchrec_priors.prepared.opening import manifest_in
from torchrec_priors.remote.cache import default_cache
from torchrec_priors.remote.store import Store
from torchrec_priors.remote.uri import Place, Uri


def remove_prior(place: Place, name: str) -> PriorInfo:
    """Removes a prior from the manifest, and then its file.

    If the process is killed in between, the file stays, and nothing reads it.

    Args:
        place: the folder of the data set, local or in a store.
        name: the name of the prior.

    Returns:
        The prior that was removed.

    Raises:
        UserError: there is no such prior, it came with the data, or the folder cannot be written.
    """
    if isinstance(place, Uri):
        return _remove_there(place, name)

    with explaining(f"--data: '{place}'"), locked(place):
        manifest = read_manifest(place)
        prior = _removable(manifest, name)
        check_no_link((place / prior.path).parent, place)
        _without(manifest, prior).write(place)
        (place / prior.path).unlink(missing_ok=True)
    return prior


def _remove_there(uri: Uri, name: str) -> PriorInfo:
    """Removes a prior from a data set in a store, which has no locks."""
    store = Store(uri, "--data")
    store.require_writable()
    cache = default_cache()
    with cache.writable(), scratch_folder(cache.subfolder("scratch"), "prior") as scratch:
        manifest = manifest_in(store)
        prior = _removable(manifest, name)
        _without(manifest, prior).write(scratch)
        store.put(scratch / FILE, FILE)
        store.remove(prior.path)
    return prior


def _removable(manifest: Manifest, name: str) -> PriorInfo:
    prior = manifest.prior(name)
    if not prior.made_by:
        raise UserError(
            f"--name: prior '{name}' came with the data, which stays as it is:"
            " only priors that were added can be removed"
        )
    return prior


def _without(manifest: Manifest, prior: PriorInfo) -> Manifest:
    priors = [other for other in manifest.priors if other.name != prior.name]
    files = [info for info in manifest.files if info.path != prior.path]
    return with_priors(manifest, priors, files)
