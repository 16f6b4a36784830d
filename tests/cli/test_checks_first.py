"""What is wrong with a command line is said at once, before seconds of imports."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.convert
SCRIPT = """
import contextlib, io, json, sys
from edge_llava.cli import main
found = []
for arguments in json.load(sys.stdin):
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
    loaded = sorted({"torch", "transformers", "onnx", "optimum", "peft"} & set(sys.modules))
    found.append([code, err.getvalue(), loaded])
json.dump(found, sys.stdout)
"""


def test_a_mistake_costs_no_import_of_torch(home, tmp_path, seeded_q4):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    shutil.copytree(seeded_q4, home / "bundles" / "demo-q4_k_m")
    (tmp_path / "data.json").write_text("[]")
    bundle, data = str(seeded_q4), str(tmp_path / "data.json")
    train = ("--data", data, "--images", str(tmp_path), "-o", str(tmp_path / "out"))
    cases = [
        (("convert", "nosuchdir"), 4, "no such directory: nosuchdir"),
        (("convert", str(tmp_path / "model.gguf")), 4, "quantized already"),
        (("convert", bundle), 4, f"is a bundle already. Use it: edge-llava chat IMAGE -m {bundle}"),
        (("convert", str(tmp_path / "empty")), 4, "it has no config.json"),
        (("convert", "demo"), 5, "--force"),
        (("convert", "demo", "--base", "nosuchdir"), 4, "no such directory: nosuchdir"),
        (("convert", "demo", "--quant", "Q9"), 2, "'Q9' is not one of F32"),
        (("convert", "demo", "-o", bundle + "-new", "--calibrate", "nosuchdir"), 7, "nosuchdir contains no images"),
        (("fit", "nosuchdir"), 6, "there is no bundle 'nosuchdir'"),
        (("verify", bundle, "--checkpoint", "nosuchdir"), 4, "no such directory: nosuchdir"),
        (("verify", "nosuchbundle"), 6, "there is no bundle 'nosuchbundle'"),
        (("train", "finetune", "--checkpoint", "nosuchdir", *train), 2, "'nosuchdir' does not exist"),
        (("train", "align", "--checkpoint", str(tmp_path), "--data", "nosuch.json", *train[2:]), 2, "nosuch.json"),
        (("data", "stats", "nosuch.json"), 10, "nosuch.json cannot be read"),
        (("data", "captions", "nosuch.json", "-o", data), 10, "nosuch.json cannot be read"),
        (("eval", "pope", "nosuch.json"), 2, "'nosuch.json' does not exist"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([arguments for arguments, _, _ in cases]),
        capture_output=True,
        text=True,
        check=True,
    )
    for (arguments, code, says), (found_code, err, loaded) in zip(cases, json.loads(done.stdout), strict=True):
        assert (found_code, loaded) == (code, []), (arguments, err)
        assert says in err, (arguments, err)
