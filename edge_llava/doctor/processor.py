"""The processor: its instruction sets and its kinds of cores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_llava.device.cpu_name import cpu_field, read_cpu_name
from edge_llava.device.tree import Tree

_CPUS = "sys/devices/system/cpu"
_BIG = 0.8  # of the strongest core, as for the default number of threads
# What a processor calls its instruction sets -> what llama.cpp calls them, for those that its kernels gain from.
# Sources: /proc/cpuinfo of Linux, sysctl of macOS, ggml_backend_cpu_get_features.
_FEATURES = {
    "avx": "AVX", "avx2": "AVX2", "fma": "FMA", "f16c": "F16C", "bmi2": "BMI2", "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI", "avx512_bf16": "AVX512_BF16", "avx_vnni": "AVX_VNNI", "amx_int8": "AMX_INT8",
    "asimd": "NEON", "asimddp": "DOTPROD", "asimdhp": "FP16_VA", "i8mm": "MATMUL_INT8", "sve": "SVE",
    "hw.optional.avx2_0": "AVX2", "hw.optional.fma": "FMA", "hw.optional.f16c": "F16C",
    "hw.optional.arm.FEAT_DotProd": "DOTPROD", "hw.optional.arm.FEAT_I8MM": "MATMUL_INT8",
}  # fmt: skip
INSTRUCTION_SETS = frozenset(_FEATURES.values())
"""By llama.cpp's names."""


@dataclass(frozen=True)
class Processor:
    """A processor.

    Attributes:
        name: Its model, or its board's.
        features: Instruction sets, by llama.cpp's names: "AVX2", "DOTPROD".
        n_big, n_little: Logical CPUs that are near the strongest one's speed, and the others; 0 and 0 where the system
            does not tell.
    """

    name: str
    features: frozenset[str]
    n_big: int
    n_little: int


def read_processor(tree: Tree, sysctl: Mapping[str, str]) -> Processor:
    """Reads /proc and /sys, or what macOS's `sysctl -a` says."""
    if sysctl:
        words = {name for name, value in sysctl.items() if value == "1"}
        n_big, n_all = (int(sysctl.get(name, 0)) for name in ("hw.perflevel0.logicalcpu", "hw.logicalcpu"))
        name, n_little = sysctl.get("machdep.cpu.brand_string", ""), n_all - n_big if n_big else 0
    else:
        text = tree.text("proc/cpuinfo")
        words = set(cpu_field(text, "flags").split()) | set(cpu_field(text, "Features").split())
        n_big, n_little = _count_kinds(tree)
        name = read_cpu_name(tree)
    found = frozenset(_FEATURES[word] for word in words & _FEATURES.keys())
    return Processor(name or "unknown", found, n_big, n_little)


def parse_sysctl(text: str) -> dict[str, str]:
    """The lines of `sysctl -a`, "hw.memsize: 17179869184"."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def _count_kinds(tree: Tree) -> tuple[int, int]:
    for place in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        speeds = [tree.number(f"{cpu}/{place}") for cpu in tree.places(f"{_CPUS}/cpu[0-9]*")]
        known = [speed for speed in speeds if speed]
        if known and len(known) == len(speeds):
            n_big = sum(speed >= _BIG * max(known) for speed in known)
            return n_big, len(known) - n_big
    return 0, 0
