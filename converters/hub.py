"""Downloads a checkpoint from the Hugging Face hub into the hub's own cache."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_llava.errors import CheckpointError
from edge_llava.home.progress import ProgressCallback, ProgressEvent

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PATTERNS = ["*.json", "*.safetensors", "*.bin", "tokenizer.model", "LICENSE*", "USE_POLICY*", "NOTICE*"]
_UNUSED = ["*/*", "*training_args.bin", "*optimizer*"]
# of xtuner's layout, see `parts`
_PARTS = ("projector", "visual_encoder*", "llm_adapter")
_OF_PARTS = ["xtuner_config.py", *(f"{part}/*.{kind}" for part in _PARTS for kind in ("json", "safetensors", "bin"))]
_PROJECTOR, _TRAINABLES = "mm_projector.bin", "non_lora_trainables.bin"
_WATCH_INTERVAL_S = 0.5


def is_hub_id(source: str) -> bool:
    """Whether a string that does not name a directory can be a hub id: exactly `owner/name`."""
    return bool(_HUB_ID.fullmatch(source)) and not os.path.exists(source)


def find_snapshot(directory: Path) -> tuple[str, str] | None:
    """Returns hub id and commit of a directory in the hub's cache, `models--OWNER--NAME/snapshots/COMMIT`."""
    snapshot = directory.resolve()
    repository = snapshot.parent.parent.name
    if snapshot.parent.name != "snapshots" or not repository.startswith("models--"):
        return None
    return repository.removeprefix("models--").replace("--", "/", 1), snapshot.name


def download(hub_id: str, progress: ProgressCallback) -> tuple[Path, str]:
    """Downloads what a conversion needs; an interrupted download resumes where it stopped.

    Args:
        hub_id: `owner/name`.
        progress: Receives the number of downloaded bytes, on a separate thread.

    Returns:
        The local directory, and the commit.

    Raises:
        CheckpointError: If the hub cannot be reached, or has no such model, or wants a login.
    """
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import disable_progress_bars, filter_repo_objects
    from requests.exceptions import RequestException

    disable_progress_bars()
    try:
        info = HfApi().model_info(hub_id, files_metadata=True)
    except HFValidationError as error:
        raise CheckpointError(f"{hub_id!r} is not a directory here, and cannot be a hub id.") from error
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"the hub refuses {hub_id!r}: {reason}. Check the name, or log in.") from error
    except (RequestException, ConnectionError) as error:
        try:  # an earlier download can be used without a network
            patterns = [*_PATTERNS, *_OF_PARTS]
            earlier = Path(snapshot_download(hub_id, allow_patterns=patterns, local_files_only=True))
        except LocalEntryNotFoundError:
            raise CheckpointError(
                f"{hub_id!r} is not a directory here, and the hub cannot be reached. "
                "Give the directory of a checkpoint."
            ) from error
        return earlier, earlier.name
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    names = _choose(list(filter_repo_objects(sizes, allow_patterns=_PATTERNS, ignore_patterns=_UNUSED)))
    names += filter_repo_objects(sizes, allow_patterns=_OF_PARTS)
    if not names or info.sha is None:
        raise CheckpointError(f"the hub's {hub_id!r} does not contain a checkpoint.")
    try:
        with _watching(hub_id, sum(sizes[name] for name in names), progress):
            paths = [Path(hf_hub_download(hub_id, name, revision=info.sha)) for name in names]
    except (HfHubHTTPError, RequestException, OSError) as error:
        raise CheckpointError(
            f"downloading {hub_id!r} failed: {error}. Run the same command again: it resumes where it stopped."
        ) from error
    return paths[0].parents[names[0].count("/")], info.sha


def _choose(names: list[str]) -> list[str]:
    """Selects one kind of weights; a projector's own file only if it is the only one, since shards contain it too."""
    has_shards = any(name.startswith(("model", "pytorch_model")) and not name.endswith(".json") for name in names)
    if any(name.endswith(".safetensors") for name in names):
        names = [name for name in names if not name.endswith(".bin") or name in (_PROJECTOR, _TRAINABLES)]
    return [name for name in names if name != _PROJECTOR or not has_shards]


@contextmanager
def _watching(hub_id: str, total: int, progress: ProgressCallback) -> Iterator[None]:
    """Reports the growth of the hub's cache, since its client does not report the progress of a file."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    blobs = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=hub_id, repo_type="model") / "blobs"
    stage, finished = f"downloading {hub_id}", threading.Event()

    def watch() -> None:
        while not finished.wait(_WATCH_INTERVAL_S):
            try:
                arrived = sum(path.stat().st_size for path in blobs.glob("*"))
            except FileNotFoundError:  # a finished file was just renamed
                continue
            progress(ProgressEvent(stage, min(arrived, total - 1), total))

    watcher = threading.Thread(target=watch, name="edge-llava-download", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()
    progress(ProgressEvent(stage, total, total))
