"""Captions every image in a folder, as JSON lines. You can stop it at any time; the next run resumes.

python examples/caption_folder.py BUNDLE FOLDER
"""

import sys

import edge_llava


def show(event: edge_llava.ProgressEvent) -> None:
    print(f"\r{event.stage}: {event.done} of {event.total}", end="", file=sys.stderr, flush=True)


def main(bundle: str, folder: str) -> None:
    options = edge_llava.CaptionOptions(prompt="Describe the picture in detail.")
    with edge_llava.load(bundle) as model:
        report = edge_llava.caption_folder(model, folder, options=options, progress=show)
    print(file=sys.stderr)
    print(f"{report.n_captioned} captioned, {report.n_earlier} earlier: {report.out}")
    for fault in report.faults:
        print(f"{fault.path}: {fault.reason}", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except edge_llava.EdgeLlavaError as error:
        sys.exit(str(error))
