"""Downloading a checkpoint from the Hugging Face hub into its own cache."""

from __future__ import annotations

import re
from pathlib import Path

from edge_llava.errors import CheckpointError
from edge_llava.progress import ProgressCallback, ProgressEvent

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PATTERNS = ["*.json", "*.safetensors", "*.bin", "tokenizer.model", "LICENSE*", "USE_POLICY*", "NOTICE*"]
_UNUSED = ["*training_args.bin", "*optimizer*", "mm_projector.bin", "onnx/*", "openvino/*", "*.msgpack", "*.h5"]


def is_hub_id(source: str) -> bool:
    """Whether a text that is no directory can be a hub id: exactly `owner/name`."""
    return bool(_HUB_ID.fullmatch(source)) and not Path(source).exists()


def download(hub_id: str, progress: ProgressCallback) -> tuple[Path, str]:
    """Downloads what a conversion needs, file by file; an interrupted download goes on where it stopped.

    Returns:
        The local directory, and the commit.

    Raises:
        CheckpointError: If the hub cannot be reached, or has no such model, or wants a login.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import disable_progress_bars, filter_repo_objects
    from requests.exceptions import RequestException

    try:
        info = HfApi().model_info(hub_id, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        names = list(filter_repo_objects(sizes, allow_patterns=_PATTERNS, ignore_patterns=_UNUSED))
        if any(name.endswith(".safetensors") for name in names):
            names = [name for name in names if not name.endswith(".bin")]
        total, done = sum(sizes[name] for name in names), 0
        disable_progress_bars()
        directory = None
        for name in names:
            path = Path(hf_hub_download(hub_id, name, revision=info.sha))
            if "/" not in name:
                directory = path.parent
            done += sizes[name]
            progress(ProgressEvent(f"downloading {hub_id}", done, total))
    except HfHubHTTPError as error:
        raise CheckpointError(
            f"the hub refuses {hub_id!r}: {str(error).splitlines()[0]}. Check the name, or log in."
        ) from error
    except (RequestException, OSError) as error:
        raise CheckpointError(
            f"{hub_id!r} is no directory here, and the hub cannot be reached. Give the directory of a checkpoint."
        ) from error
    if directory is None or info.sha is None:
        raise CheckpointError(f"the hub's {hub_id!r} holds no checkpoint.")
    return directory, info.sha
