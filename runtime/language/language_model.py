"""language.gguf in llama.cpp: its weights, and its vocabulary to turn text into tokens and back."""

from __future__ import annotations

import ctypes
import os
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llama_cpp

from edge_llava.bundle.language_file import check_language_file
from edge_llava.bundle.language_spec import LanguageSpec
from edge_llava.errors import BackendError
from edge_llava.ggml.devices import GgmlDevice, choose_devices, list_devices
from edge_llava.ggml.openmp import end_threads_before_forks
from edge_llava.runtime.language.llama_log import first_error, route_log, stderr_as_errors
from edge_llava.runtime.language.llama_params import model_params
from edge_llava.runtime.language.text_form import TextForm
from edge_llava.runtime.lifetime.native import freed_with
from edge_llava.runtime.lifetime.work_thread import run_aside
from edge_llava.runtime.options import DecoderOptions

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_FOUND_WHOLE = (
    llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN | llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
)


def prepare_load(path: Path, spec: LanguageSpec, options: DecoderOptions) -> tuple[tuple[GgmlDevice, ...], Any]:
    """Checks language.gguf, starts llama.cpp, and chooses how the weights are loaded.

    Returns:
        The devices for the blocks; empty: the CPU. And llama.cpp's parameters of the weights.

    Raises:
        BundleError: If the file is damaged or is not what the manifest says.
        BackendError: If llama.cpp does not have a device that the options name.
    """
    header = check_language_file(path, spec)
    route_log()
    llama_cpp.llama_backend_init()
    end_threads_before_forks()
    present = list_devices() if options.may_offload else ()  # which takes memory of CUDA's
    devices = choose_devices(present, options.devices, options.n_gpu_layers)
    return devices, model_params(options, devices, header.tensors)


class LanguageModel:
    """The weights and the vocabulary, without a context. Reading them is thread-safe.

    Attributes:
        spec: What the manifest says of the file.
        devices: What its blocks are on; empty: the CPU.
        vocabulary: llama.cpp's handle.
    """

    def __init__(self, path: Path, spec: LanguageSpec, options: DecoderOptions) -> None:
        """
        Raises:
            BundleError: If the file is damaged or is not what the manifest says.
            BackendError: If llama.cpp cannot load it, or has no device that the options name.
        """
        self.spec = spec
        self.devices, self._params = prepare_load(path, spec, options)
        with self._errors_of_backends():
            self._model = run_aside(lambda: llama_cpp.llama_model_load_from_file(os.fsencode(path), self._params))
        if not self._model:
            raise BackendError(f"llama.cpp cannot load {path}: {first_error().rstrip('.')}. {self._memory_advice}")
        self._free_weights = freed_with(self, llama_cpp.llama_model_free, self._model)
        self.vocabulary: Any = llama_cpp.llama_model_get_vocab(self._model)

    def _errors_of_backends(self) -> AbstractContextManager[None]:
        """Around what may fail for lack of a GPU's memory."""
        return stderr_as_errors() if any(device.backend == "Vulkan" for device in self.devices) else nullcontext()

    @property
    def _memory_advice(self) -> str:
        fewer = "--gpu-layers N for fewer blocks on the GPU, " if self.devices else ""
        return f"If memory is short, try {fewer}-c N for a shorter context, or --low-memory."

    @cached_property
    def json_tokenizer(self) -> LLTokenizer:
        """Its vocabulary for answers that follow a JSON schema, which never contain control tokens."""
        from edge_llava.runtime.language.json_grammar import tokenizer_of

        return tokenizer_of([self.piece(token) for token in range(self.spec.n_vocab)], self.spec.eos)

    def tokenize(self, text: str, *, add_bos: bool) -> list[int]:
        """Token ids of a text; special tokens written in it are recognized, as in training.

        Args:
            text: Of any form; it is brought into the tokenizer's.
            add_bos: Whether it begins a prompt, hence with BOS where the model has one.
        """
        data = self._form(text).encode()
        room = len(data) + 2
        tokens = (ctypes.c_int32 * room)()
        n = llama_cpp.llama_tokenize(self.vocabulary, data, len(data), tokens, room, add_bos, True)
        if n < 0:
            raise BackendError(f"llama.cpp cannot tokenize a text of {len(data)} bytes.")
        return list(tokens[:n])

    def tokenize_within(self, text: str) -> list[int]:
        """Token ids of a text that continues another: no space is put before it."""
        if not self.spec.tokenizer.adds_space:
            return self.tokenize(text, add_bos=False)
        lead = self.tokenize("\n", add_bos=False)  # no token of LLaMA's vocabulary crosses a line
        ids = self.tokenize(f"\n{text}", add_bos=False)
        return ids[len(lead) :] if ids[: len(lead)] == lead else self.tokenize(text, add_bos=False)

    def count_at_least(self, text: str) -> int:
        """Tokens that a text has at least; quickly, however long it is, where `tokenize` takes the square of it."""
        return len(self._form(text).encode()) // self._longest_piece

    @cached_property
    def _form(self) -> TextForm:
        return TextForm(self.spec.tokenizer, self._special_texts)

    def _special_texts(self) -> dict[int, str]:
        """The tokens that are found in a text before it is split, as they stand there."""
        attributes = (llama_cpp.llama_vocab_get_attr(self.vocabulary, token) for token in range(self.spec.n_vocab))
        special = [token for token, attribute in enumerate(attributes) if attribute & _FOUND_WHOLE]
        texts = (llama_cpp.llama_vocab_get_text(self.vocabulary, token) for token in special)
        return {token: text.decode(errors="replace") for token, text in zip(special, texts, strict=True)}

    @cached_property
    def _longest_piece(self) -> int:
        return max(len(self.piece(token, special=True)) for token in range(self.spec.n_vocab))

    def piece(self, token: int, *, special: bool = False, room: int = 64) -> bytes:
        """The bytes that a token stands for; empty for control tokens, unless `special` asks for their names."""
        buffer = ctypes.create_string_buffer(room)
        n = llama_cpp.llama_token_to_piece(self.vocabulary, token, buffer, room, 0, special)
        return buffer.raw[:n] if n >= 0 else self.piece(token, special=special, room=-n)

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer."""
        return token in self.spec.end_ids or bool(llama_cpp.llama_vocab_is_eog(self.vocabulary, token))

    def close(self) -> None:
        """Frees the weights; safe to call twice. Contexts on them must be freed before."""
        self._free_weights()
        self._model = None
