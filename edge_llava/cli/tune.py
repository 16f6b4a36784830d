"""edge-llava tune: finds the best settings for a bundle on this device."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_llava.cli.crashes import avoid_crash, explain_aborts
from edge_llava.cli.display import format_bytes, note, show, show_progress
from edge_llava.cli.options import EngineChoice, EngineCommand, bundle_option, engine_options, json_option
from edge_llava.cli.shortage import make_fit
from edge_llava.device.facts import DeviceFacts
from edge_llava.device.profile import GOALS, DeviceSettings, Goal, profile_path, save_profile
from edge_llava.home.directories import check_home
from edge_llava.home.files import write_text

if TYPE_CHECKING:
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.measuring.stages import LanguageFigures, VisionFigures
    from edge_llava.measuring.trials import Trial
    from edge_llava.measuring.tuning import Tuning

_GOAL_WORDS = {
    "total": "shortest turn",
    "ttft": "soonest first token",
    "throughput": "quickest answer",
    "memory": "least memory",
}
_VISION_FIELDS = ("n_vision_threads", "vision_spinning")


@click.command("tune", cls=EngineCommand)
@bundle_option
@click.option(
    "--goal",
    type=click.Choice(GOALS),
    default="total",
    show_default=True,
    help="What to minimize: the total time of a turn, the time to its first token (ttft), the time per token "
    "(throughput), or the memory, among settings at most a quarter slower than the fastest.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(1, 3600),
    default=45,
    metavar="S",
    show_default=True,
    help="How long to measure; loading a large model may take longer.",
)
@engine_options("gpu_layers", "devices", "rpc", "provider")
@json_option
def command(bundle: str | None, goal: Goal, seconds: float, engines: EngineChoice, as_json: bool) -> None:
    """Measure which settings are best on this device, and save them.

    Tries blocks on GPUs, threads, weight layout, batch sizes, attention, and how the tower's threads wait, on a turn of
    one image, 50 tokens of text and a 64-token answer; then how many captions at a time are best. All commands then use
    the result; their own options take precedence, and --no-profile ignores it. Leave the device idle while it runs.

    \b
    edge-llava tune
    edge-llava tune -m my-bundle --goal ttft --seconds 20
    """
    from edge_llava.bundle.bundle import open_bundle
    from edge_llava.measuring.tuning import tune

    check_home()  # the result is saved there
    opened = open_bundle(bundle)
    explain_aborts()
    base = avoid_crash(opened, engines.unmeasured())
    fitting = make_fit(opened, base, force=None)
    with show_progress() as progress:
        tuning = tune(opened, goal, seconds, base, fitting=fitting, progress=progress)
    path = save_profile(tuning.profile, opened.manifest)
    if as_json:
        click.echo(json.dumps(_report(tuning, opened.path, path), indent=2))
        return
    show("\n".join(_format_table(tuning, opened.name)))
    note(f"saved in {path}")
    _say_poor_build()
    if tuning.profile.was_busy:
        note(
            f"Other programs kept {tuning.profile.measured['other_cpus']:.1f} CPUs busy meanwhile, so the numbers of "
            "threads are not used. Run it again when the device is idle."
        )


def _say_poor_build() -> None:
    """Says what a better build of llama.cpp would gain; settings cannot make up for it."""
    from edge_llava.doctor.children import run_probes
    from edge_llava.doctor.llama_findings import find_about_build
    from edge_llava.doctor.system import this_system

    facts = run_probes({"llama.cpp": ()}, limit_s=60)["llama.cpp"].facts
    if "features" not in facts:
        return
    for finding in find_about_build(this_system(), facts):
        note(f"{finding.topic}: {finding.text}.")
        if finding.advice:
            note(finding.advice)


def suggest_tuning(bundle: Bundle, named: str | None, device: DeviceFacts) -> None:
    """Suggests once per bundle and device to measure the settings, if nothing was measured yet.

    Args:
        bundle: The opened bundle.
        named: How the user named it; None for the default.
        device: Where it runs.
    """
    path = profile_path(bundle.manifest, device)
    suggested = path.with_suffix(".suggested")
    if path.exists() or suggested.exists():
        return
    option = f" -m {shlex.quote(named)}" if named else ""
    note(f"edge-llava tune{option} measures the best settings for this device.")
    with contextlib.suppress(OSError):  # if the data directory cannot be written, the suggestion is repeated
        write_text(suggested, "")


def _report(tuning: Tuning, bundle: Path, path: Path) -> dict[str, Any]:
    profile = tuning.profile
    return {
        "bundle": str(bundle),
        "goal": profile.goal,
        "device": asdict(profile.device),
        "settings": profile.settings.to_dict(),
        "measured": profile.measured,
        "parallel": tuning.profile.parallel,
        "steps": {str(n): seconds for n, seconds in tuning.steps.items()},
        "n_positions": tuning.n_positions,
        "trials": {
            "vision": [_trial(trial, of_vision=True) for trial in tuning.vision],
            "language": [
                _trial(trial, of_vision=False) | {"peak_rss_bytes": tuning.peaks.get(trial.settings)}
                for trial in tuning.language
            ],
        },
        "seconds": tuning.seconds,
        "profile": str(path),
    }


def _trial(trial: Trial[VisionFigures] | Trial[LanguageFigures], *, of_vision: bool) -> dict[str, Any]:
    settings = trial.settings.to_dict()
    return {
        "settings": {name: value for name, value in settings.items() if (name in _VISION_FIELDS) == of_vision},
        "samples": [asdict(sample) for sample in trial.samples],
    }


def _format_table(tuning: Tuning, bundle: str) -> Iterator[str]:
    """Formats what was tried and chosen, as lines of at most 80 columns."""
    profile, chosen = tuning.profile, tuning.profile.settings
    yield f"{bundle[:30]}: {_GOAL_WORDS[profile.goal]}, measured for {tuning.seconds:.0f} s"
    yield f"{profile.device.cpu[:60]}, {profile.device.n_cpus} CPUs"
    yield ""
    yield f"{'image':<10}{'threads':>8}{'spinning':>10}{'runs':>6}{'seconds':>10}"
    for vision_trial in tuning.vision:
        settings = vision_trial.settings
        is_chosen = all(getattr(settings, name) == getattr(chosen, name) for name in _VISION_FIELDS)
        yield (
            f"{'':<10}{settings.n_vision_threads:>8}{_yes(settings.vision_spinning):>10}"
            f"{len(vision_trial.samples):>6}{vision_trial.median(lambda run: run.encode_s):>10.3f}{_mark(is_chosen)}"
        )
    yield ""
    memory = f"{'memory':>10}" if tuning.peaks else ""
    yield (
        f"{'language':<10}{'threads':>8}{'repack':>8}{'batch':>6}{'flash':>6}{'kv':>6}{'runs':>6}"
        f"{'prefill':>9}{'decode':>8}{memory}"
    )
    has_places = len({trial.settings.n_gpu_layers for trial in tuning.language}) > 1
    for trial in tuning.language:
        settings = trial.settings
        memory = f"{format_bytes(tuning.peaks[settings]):>10}" if tuning.peaks else ""
        yield (
            f"{_place(settings) if has_places else '':<10}"
            + _language_row(trial)
            + memory
            + _mark(_has_same_language_settings(settings, chosen))
        )
    yield ""
    yield "Prefill and decode are in tokens per second."
    yield f"A turn of {tuning.n_positions} positions and 64 answer tokens takes {profile.measured['turn_s']:.2f} s."
    if tuning.steps:
        n = profile.parallel
        yield f"Captions are best {'one' if n == 1 else n} at a time."
    if len(tuning.vision) == len(tuning.language) == 1:
        yield f"There was no time to compare anything. Try again with --seconds {min(3600, 4 * tuning.seconds):.0f}"


def _language_row(trial: Trial[LanguageFigures]) -> str:
    settings = trial.settings.to_dict()
    prefill, decode = trial.median(lambda run: run.prefill_tps), trial.median(lambda run: run.decode_tps)
    return (
        f"{settings['n_threads']:>8}{_yes(settings['repack']):>8}{settings['n_batch']:>6}"
        f"{settings['flash_attention']:>6}{settings['kv_type']:>6}{len(trial.samples):>6}{prefill:>9.1f}{decode:>8.1f}"
    )


def _place(settings: DeviceSettings) -> str:
    n = settings.n_gpu_layers
    return "all on GPU" if n is None else f"{n} on GPU" if n else "CPU"


def _has_same_language_settings(one: DeviceSettings, other: DeviceSettings) -> bool:
    mine, its = one.to_dict(), other.to_dict()
    return all(mine[name] == its[name] for name in mine if name not in _VISION_FIELDS)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _mark(is_chosen: bool) -> str:
    return " *" if is_chosen else ""
