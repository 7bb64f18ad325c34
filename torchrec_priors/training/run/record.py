"""Records a run in its folder: the data set, the origin of the weights, and the configuration."""

import hashlib
from dataclasses import replace

from torchrec_priors.common.checksums import sha256
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.run.config_file import write_config
from torchrec_priors.training.run.folder import CONFIG, DATA, RunFolder
from torchrec_priors.training.run.origin import FORMAT, Ancestor, Origin, write_origin
from torchrec_priors.training.run.recorded_data import added_priors, used_content


def record_run(
    folder: RunFolder,
    config: RunConfig,
    data: PreparedData,
    init_from: RunFolder | None = None,
    ancestors: list[Ancestor] | None = None,
) -> None:
    """Writes `data.json` and `config.toml`, before the first step of this start.

    If a run is resumed, the origin of its weights stays as it was recorded.

    Args:
        folder: the folder of the run.
        config: the configuration.
        data: the data set.
        init_from: for a new run, the run that its initial weights come from.
        ancestors: for a new run, its ancestors.
    """
    before = folder.origin() if folder.was_started else None
    folder.checkpoints.mkdir(parents=True, exist_ok=True)

    manifest = data.manifest
    settings = config.to_toml_for_checksums()
    identifies = f"{settings}\n{manifest.prepared_sha256}\n{manifest.added_priors()}"
    files = [file for file in (folder.seen, folder.trained, folder.paths) if file.is_file()]
    origin = Origin(
        path=str(data.folder.absolute()),
        content_sha256=manifest.prepared_sha256,
        priors=added_priors(config, data),
        content=used_content(config, data),
        groups={prior.name: len(prior.groups) for prior in manifest.priors},
        events=manifest.events,
        init_from=None if init_from is None else str(init_from.path.absolute()),
        init_from_id=None if init_from is None else init_from.identity(),
        ancestors=ancestors,
        own_files={str(file): sha256(file) for file in config.own_files()},
        files={file.name: sha256(file) for file in files},
        run_id=hashlib.sha256(identifies.encode()).hexdigest()[:32],
        format=FORMAT,
    )
    if before is not None:
        # A resumed run stays the same run, even if settings that may change have changed, or if
        # the folder of `init_from` has moved. If an earlier version recorded no checksums, the
        # present checksums of the files are recorded.
        origin = replace(
            origin,
            init_from=before.init_from,
            init_from_id=before.init_from_id or origin.init_from_id,
            ancestors=before.ancestors,
            files=before.files if before.signed else origin.files,
            run_id=before.run_id,
        )

    # The configuration is written last, because its existence means that the run was started.
    write_origin(folder.path / DATA, origin)
    write_config(folder.path / CONFIG, config, origin.run_id)
