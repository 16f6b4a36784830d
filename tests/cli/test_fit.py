"""What `edge-llava fit` shows of a bundle."""

from __future__ import annotations

import json

from edge_llava.bundle.bundle import Bundle
from edge_llava.fitting.bundle_needs import predict_needs
from edge_llava.runtime.options import DecoderOptions, EngineOptions


def test_a_bundle_that_fits(run, seeded_q4):
    shown = run("fit", seeded_q4)
    assert shown.code == 0
    first, taken, parts, verdict = shown.out.splitlines()
    assert first == f"{seeded_q4.name}, Q4_K_M, with 1024 positions takes"
    assert "GB of main memory; " in taken
    assert parts.strip().startswith("programs 0.10")
    assert verdict == "It fits."
    assert all(len(line) <= 100 for line in shown.out.splitlines())


def test_a_bundle_that_does_not(run, seeded_q4):
    options = EngineOptions(DecoderOptions(n_ctx=512))
    size = predict_needs(Bundle.open(seeded_q4), options).n_bytes
    shown = run("fit", seeded_q4, "--for", f"{size / 1e6 + 0.001:.3f}MB")
    assert shown.code == 1
    assert "It does not fit." in shown.out
    assert "\n  -c 512 " in shown.out
    facts = json.loads(run("fit", seeded_q4, "--for", f"{size / 1e6 + 0.001:.3f}MB", "--json").out)
    assert facts["verdict"] == "too much"
    assert "-c 512" in [setting["words"] for setting in facts["settings"]]
    assert facts["main_bytes"] == sum(part["bytes"] for part in facts["parts"])
    assert facts["first_main_bytes"] < facts["main_bytes"]  # 512 of 1,024 positions
    assert run("fit", seeded_q4, "-c", 512, "--for", f"{size / 1e6 + 0.001:.3f}MB").code == 0
    nothing = run("fit", seeded_q4, "--for", "1MB")
    assert "No setting fits. Convert with fewer bits" in nothing.out


def test_what_is_no_bundle(run, tmp_path, seeded_q4):
    assert run("fit", tmp_path / "none").code == 6
    assert run("fit", seeded_q4, "--quant", "Q2_K").code == 2
