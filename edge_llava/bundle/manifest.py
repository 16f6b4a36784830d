"""The manifest of a bundle: what was converted, into which files, and how near it came to its checkpoint.

`Manifest` is what both rooms agree on. It is read field by field and every fault is reported at once; numbers come
from the checkpoint's config and tensors when the bundle is made and are never guessed afterwards.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PureWindowsPath

from edge_llava.bundle.json_fields import JsonFields
from edge_llava.bundle.language_spec import LanguageSpec, find_language_faults, read_language
from edge_llava.bundle.vision_spec import VisionSpec, find_vision_faults, read_vision
from edge_llava.errors import BundleError, list_faults
from edge_llava.ggml.limits import MAX_INT32

FORMAT_VERSION = 2  # bundles of version 1 are read, too

PROJECTOR_KINDS = ("linear", "mlp2x_gelu")
STAGES = ("tokenizer", "preprocess", "vision", "projector", "language", "mmproj")
ROLES = ("vision", "vision_data", "projector", "language", "mmproj", "parity")
REQUIRED_ROLES = ("vision", "projector", "language", "parity")
MAX_NOTICE = 300  # characters
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class SourceInfo:
    """Where the bundle came from.

    Attributes:
        name: Directory name or hub id of the checkpoint; for people, never for decisions.
        revision: Commit of the hub repository, or None for a directory.
        layout: "hf" (LlavaForConditionalGeneration), "original" (LlavaLlamaForCausalLM) or "xtuner" (its parts).
        license_files: Files of the checkpoint that state its licence, copied to `licenses/` of the bundle.
    """

    name: str
    revision: str | None
    layout: str
    license_files: tuple[str, ...]


@dataclass(frozen=True)
class ProjectorSpec:
    """The projector: patch features (P, in_features) to embedding rows (P, out_features).

    Attributes:
        kind: "linear" or "mlp2x_gelu" (two layers, exact erf GELU between them).
        in_features: Width D of a patch feature.
        out_features: Width E of an embedding row, equal to the language model's n_embd.
        quant: ggml type of the weight matrices, for example "Q6_K".
    """

    kind: str
    in_features: int
    out_features: int
    quant: str


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle.

    Attributes:
        path: Relative to the bundle directory, with forward slashes.
        bytes: Size.
        sha256: Digest of the contents, 64 lower-case hex digits.
    """

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class StageParity:
    """How near one stage came to the checkpoint in float32, on the reference inputs. None: not measured here.

    Attributes:
        cosine_mean, cosine_min: Cosine similarity per row: mean and worst.
        max_abs: Largest absolute difference.
        tokens_equal: Tokens equal to the reference's, of `tokens_total`: greedy next tokens, or a text's tokens.
    """

    cosine_mean: float | None = None
    cosine_min: float | None = None
    max_abs: float | None = None
    tokens_equal: int | None = None
    tokens_total: int | None = None

    def describe(self) -> str:
        """The figures in words."""
        parts = []
        if self.cosine_mean is not None and self.cosine_min is not None and self.max_abs is not None:
            parts.append(f"cosine {self.cosine_mean:.6f}, worst row {self.cosine_min:.6f}, off by {self.max_abs:.2g}")
        if self.tokens_equal is not None:
            parts.append(f"{self.tokens_equal} of {self.tokens_total} tokens equal")
        return ", ".join(parts)


@dataclass(frozen=True)
class Manifest:
    """The validated contents of manifest.json; one of format version 1 is read as if it had been written today."""

    format_version: int
    created_by: str
    source: SourceInfo
    vision: VisionSpec
    projector: ProjectorSpec
    language: LanguageSpec
    files: Mapping[str, FileEntry]
    parity: Mapping[str, StageParity]
    notice: str | None = None  # what everyone who uses the bundle must know, in one line

    def to_json(self) -> str:
        """Canonical text: UTF-8, sorted keys, two spaces, final newline."""
        text = json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        # a directory's name need not be UTF-8: such bytes stay what JSON writes for them, \udce9
        return text.encode("utf-8", "backslashreplace").decode("utf-8")

    @classmethod
    def from_json(cls, text: str, where: str, advice: str = "Convert the checkpoint again.") -> Manifest:
        """Reads and validates a manifest.

        Args:
            text: Contents of manifest.json.
            where: Its path or address, for messages.
            advice: What a user can do about a manifest that is damaged.

        Raises:
            BundleError: If it is not JSON, of a newer format, or any field is missing or wrong; all faults at once.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise BundleError(f"{where} is not JSON (line {error.lineno}): {error.msg}. {advice}") from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
            raise BundleError(f"{where} is not JSON that a manifest may hold: {error}. {advice}") from error
        if not isinstance(data, dict):
            raise BundleError(f"{where} does not contain a JSON object. {advice}")
        version = data.get("format_version")
        if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT_VERSION:
            raise BundleError(
                f"{where} has format_version {version}; this edge-llava reads {FORMAT_VERSION}. Upgrade edge-llava."
            )
        faults: list[str] = []
        manifest = _read_manifest(JsonFields(data, "", faults))
        if not faults:
            faults += _disagreements(manifest.vision, manifest.projector, manifest.language)
        if faults:
            raise BundleError(list_faults(f"{where} is not a valid manifest:", faults, advice))
        return manifest


def _read_manifest(fields: JsonFields) -> Manifest:
    stated = fields.integer("format_version", 1, FORMAT_VERSION)
    version = FORMAT_VERSION if fields.faults else stated
    return Manifest(
        format_version=FORMAT_VERSION,
        created_by=fields.text("created_by"),
        source=_read_source(fields.object("source")),
        vision=read_vision(fields.object("vision"), version),
        projector=_read_projector(fields.object("projector")),
        language=read_language(fields.object("language"), version),
        files=_read_files(fields.object("files")),
        parity=_read_stages(fields.object("parity")),
        notice=_read_notice(fields),
    )


def _read_notice(fields: JsonFields) -> str | None:
    if "notice" not in fields.names():
        return None  # bundles of earlier versions have none
    notice = fields.optional_text("notice")
    if notice is not None and not is_notice(notice):
        fields.faults.append(f"notice is not one printable line of at most {MAX_NOTICE} characters")
    return notice


def is_notice(text: str) -> bool:
    """Whether a text can be a bundle's notice: one line that can be shown anywhere."""
    return 0 < len(text) <= MAX_NOTICE and text.isprintable() and bool(text.strip())


def _read_source(fields: JsonFields) -> SourceInfo:
    return SourceInfo(
        name=fields.text("name"),
        revision=fields.optional_text("revision"),
        layout=fields.text("layout", ("hf", "original", "xtuner")),
        license_files=fields.texts("license_files"),
    )


def _read_projector(fields: JsonFields) -> ProjectorSpec:
    return ProjectorSpec(
        kind=fields.text("kind", PROJECTOR_KINDS),
        in_features=fields.integer("in_features", 1, MAX_INT32),
        out_features=fields.integer("out_features", 1, MAX_INT32),
        quant=fields.text("quant"),
    )


def _read_files(fields: JsonFields) -> dict[str, FileEntry]:
    faults = fields.faults
    entries = {}
    for role in fields.names():
        if role not in ROLES:
            faults.append(f"files.{role[:80]} is not a known role ({', '.join(ROLES)})")
            continue
        entry = fields.object(role)
        entries[role] = FileEntry(entry.text("path"), entry.integer("bytes", 0, 2**50), entry.text("sha256"))
        if not _stays_inside(entries[role].path):
            faults.append(f"files.{role}.path {entries[role].path[:200]!r} leaves the bundle directory")
        if not _SHA256.fullmatch(entries[role].sha256):
            faults.append(f"files.{role}.sha256 is not 64 lower-case hex digits")
    faults += [f"files.{role} is missing" for role in REQUIRED_ROLES if role not in fields.names()]
    return entries


def _read_stages(fields: JsonFields) -> dict[str, StageParity]:
    known = [stage for stage in STAGES if stage in fields.names()]
    others = [name for name in fields.names() if name not in STAGES]
    return {stage: _read_parity(fields.object(stage)) for stage in (*known, *others)}


def _stays_inside(path: str) -> bool:
    """Whether a path leads into the bundle on every system; "C:x" leaves it on Windows."""
    windows = PureWindowsPath(path)
    return path.isprintable() and "\\" not in path and not windows.anchor and ".." not in windows.parts


def _read_parity(fields: JsonFields) -> StageParity:
    return StageParity(
        cosine_mean=fields.optional_number("cosine_mean"),
        cosine_min=fields.optional_number("cosine_min"),
        max_abs=fields.optional_number("max_abs"),
        tokens_equal=fields.optional_count("tokens_equal"),
        tokens_total=fields.optional_count("tokens_total"),
    )


def find_section_faults(vision: VisionSpec, projector: ProjectorSpec, language: LanguageSpec) -> list[str]:
    """Why a manifest with these sections would be refused; for a conversion, before its slow work."""
    faults: list[str] = []
    sections = {
        "vision": dataclasses.asdict(vision),
        "projector": dataclasses.asdict(projector),
        "language": dataclasses.asdict(language),
    }
    fields = JsonFields(json.loads(json.dumps(sections)), "", faults)
    read_vision(fields.object("vision"), FORMAT_VERSION)
    _read_projector(fields.object("projector"))
    read_language(fields.object("language"), FORMAT_VERSION)
    return faults or _disagreements(vision, projector, language)


def _disagreements(vision: VisionSpec, projector: ProjectorSpec, language: LanguageSpec) -> list[str]:
    """Fields that are each valid and yet cannot be true together."""
    faults = find_vision_faults(vision)
    if projector.in_features != vision.hidden_size:
        faults.append(f"projector.in_features {projector.in_features} != vision.hidden_size {vision.hidden_size}")
    if projector.out_features != language.n_embd:
        faults.append(f"projector.out_features {projector.out_features} != language.n_embd {language.n_embd}")
    return [*faults, *find_language_faults(language)]
