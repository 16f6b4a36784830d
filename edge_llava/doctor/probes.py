"""What runs in a child: each probe reports facts as soon as it has them, so that a crash does not take them along."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

Facts = Iterator[Mapping[str, Any]]
_GCC = re.compile(rb"GCC: \([^)]*\) (\d+\.\d+)")
# The driver's library and the entries of CUDA's driver API.
_DRIVERS = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1",)


def probe_llama_cpp() -> Facts:
    """Version, the features that it was built with, its compiler, whether its AMX works here, and its devices."""
    import llama_cpp

    from edge_llava.ggml.amx import can_use_amx
    from edge_llava.ggml.devices import list_devices

    yield {"version": llama_cpp.__version__}
    info = llama_cpp.llama_print_system_info().decode("utf-8", "replace")
    yield {"features": re.findall(r"(\w+) = 1\b", info)}
    libraries = Path(llama_cpp.__file__).parent / "lib"
    compilers = [found[1].decode() for path in sorted(libraries.glob("libggml-cpu.so*")) if (found := _gcc_of(path))]
    yield {"gcc": compilers[0] if compilers else ""}
    yield {"amx_works": can_use_amx()}
    yield {"devices": [asdict(device) for device in list_devices()]}


def _gcc_of(path: Path) -> re.Match[bytes] | None:
    return _GCC.search(path.read_bytes())


def probe_onnxruntime() -> Facts:
    """Version, what it was built for, and of each provider whether a model runs on it ("" or why not)."""
    from edge_llava.runtime.vision.onnx_runtime import hold_back_messages, import_onnxruntime

    hold_back_messages()
    onnxruntime = import_onnxruntime()
    yield {"version": onnxruntime.__version__, "cuda_version": getattr(onnxruntime, "cuda_version", "")}
    available = onnxruntime.get_available_providers()
    yield {"available": available}
    found = {
        "cpu": "CPUExecutionProvider",
        "cuda": "CUDAExecutionProvider",
        "coreml": "CoreMLExecutionProvider",
        "directml": "DmlExecutionProvider",
    }
    tried = [name for name, provider in found.items() if provider in available]
    if _is_installed("onnxruntime_ep_openvino"):
        tried.append("openvino")
    providers: dict[str, str] = {}
    for name in tried:
        yield {"trying": name}  # what is not followed by a verdict ended the process
        providers[name] = _try_provider(name)
        yield {"providers": dict(providers), "trying": ""}


def _is_installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def _try_provider(name: Any) -> str:
    """Runs the small tower once: a provider without kernels for this GPU starts, and fails only then."""
    import numpy as np

    from edge_llava.bundle.bundle import Bundle
    from edge_llava.errors import EdgeLlavaError
    from edge_llava.runtime.options import EngineOptions
    from edge_llava.runtime.vision.encoder import VisionEncoder
    from edge_llava.selftest import BUNDLE

    bundle = Bundle.open(BUNDLE)
    spec = bundle.manifest.vision
    options = EngineOptions(n_vision_threads=1, vision_provider=name, vision_spinning=False)
    try:
        encoder = VisionEncoder(bundle.file("vision"), spec, options)
        encoder(np.zeros((1, 3, spec.image_size, spec.image_size), np.float32))
    except EdgeLlavaError as error:
        reason = str(error).partition(" cannot start: ")[2] or str(error)
        return reason.partition(". `edge-llava doctor`")[0]  # this is the doctor
    return ""


def probe_answer() -> Facts:
    """Whether the tiny bundle's answer about an image is the known one, computed where `chat` would."""
    from edge_llava.runtime.options import DecoderOptions, EngineOptions
    from edge_llava.selftest.checks import answer_about_tiny_image

    one_thread = EngineOptions(DecoderOptions(n_threads=1), n_vision_threads=1, vision_spinning=False)
    answer = answer_about_tiny_image(one_thread)
    yield {"is_right": answer.is_right, "language_on": answer.language_on, "vision_on": answer.vision_on}


def probe_cuda_driver() -> Facts:
    """The newest CUDA that the driver can run, as "13.0", and its devices' number."""
    for name in _DRIVERS:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        version, count = ctypes.c_int(), ctypes.c_int()
        library.cuDriverGetVersion(ctypes.byref(version))
        yield {"cuda": f"{version.value // 1000}.{version.value % 1000 // 10}"}
        if library.cuInit(0) == 0:
            library.cuDeviceGetCount(ctypes.byref(count))
        yield {"n_devices": count.value}


def probe_bundle(path: str) -> Facts:
    """What a bundle takes in memory, and whether it computes here what its record says."""
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.fitting.bundle_needs import predict_needs, used_devices
    from edge_llava.fitting.needs import MAIN
    from edge_llava.fitting.room import read_room
    from edge_llava.fitting.settings import find_settings
    from edge_llava.parity.verify import verify
    from edge_llava.runtime.options import tuned_options

    bundle = Bundle.open(path)
    options = tuned_options(bundle)
    needs, room = predict_needs(bundle, options), read_room(used_devices(options))
    verdict = room.judge(needs)
    settings = [] if verdict == "fits" else find_settings(bundle, options, room, predict_needs)
    yield {
        "takes": needs.n_bytes,
        "free": room.free_of(MAIN),
        "verdict": verdict,
        "settings": [setting.words for setting in settings],
    }
    report = verify(bundle)
    yield {"checks": [check.to_dict() for check in report.checks]}


PROBES: dict[str, Callable[..., Facts]] = {
    "llama.cpp": probe_llama_cpp,
    "ONNX Runtime": probe_onnxruntime,
    "answer": probe_answer,
    "CUDA driver": probe_cuda_driver,
    "bundle": probe_bundle,
}
