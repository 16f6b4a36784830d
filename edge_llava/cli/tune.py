"""edge-llava tune: the best settings for a bundle on this device."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_llava.cli.display import format_bytes, note, show, show_progress
from edge_llava.cli.options import EngineChoice, bundle_option, engine_options, json_option
from edge_llava.device.facts import this_device
from edge_llava.device.profile import GOALS, DeviceSettings, Goal, profile_path, save_profile
from edge_llava.home.directories import check_home, find_bundle, write_atomically

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


@click.command("tune")
@bundle_option
@click.option(
    "--goal",
    type=click.Choice(GOALS),
    default="total",
    show_default=True,
    help="What to make small: the total time of a turn, the time to its first token (ttft), the time per token "
    "(throughput), or the memory of what takes at most a quarter longer than the quickest.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(1, 3600),
    default=45,
    metavar="S",
    show_default=True,
    help="How long to measure; a large model may need more to be loaded.",
)
@engine_options("gpu_layers", "provider")
@json_option
def command(bundle: str | None, goal: Goal, seconds: float, as_json: bool) -> None:
    """Measure which settings are best for a bundle on this device, and keep them.

    Threads, weight layout, batch size, attention, and how the tower's threads wait are tried, for a turn of one
    picture, 50 tokens of text and 64 of answer. Every command then uses the choice; options given to it win, and
    --no-profile ignores it. Leave the device alone meanwhile.

    \b
    edge-llava tune
    edge-llava tune -m my-bundle --goal ttft --seconds 20
    """
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.measuring.tuning import tune
    from edge_llava.runtime.options import DecoderOptions, EngineOptions

    check_home()  # where the result goes
    opened = Bundle.open(find_bundle(bundle))
    engines = EngineChoice.said()
    base = EngineOptions(DecoderOptions(n_gpu_layers=engines.gpu_layers), vision_provider=engines.provider)
    with show_progress() as progress:
        tuning = tune(opened, goal, seconds, base, progress=progress)
    path = save_profile(tuning.profile, opened.manifest)
    if as_json:
        click.echo(json.dumps(_report(tuning, opened.path, path), indent=2))
        return
    show("\n".join(_draw(tuning, opened.name)))
    note(f"kept in {path}")


def suggest_tuning(bundle: Bundle, named: str | None) -> None:
    """Says once per bundle and device that settings can be measured, if they were not.

    Args:
        bundle: What was opened.
        named: How the user named it; None for the default.
    """
    path = profile_path(bundle.manifest, this_device())
    told = path.with_suffix(".told")
    if path.exists() or told.exists():
        return
    option = f" -m {shlex.quote(named)}" if named else ""
    note(f"edge-llava tune{option} measures the best settings for this device.")
    with contextlib.suppress(OSError):  # a home that cannot be written: it is said again
        write_atomically(told, "")


def _report(tuning: Tuning, bundle: Path, path: Path) -> dict[str, Any]:
    profile = tuning.profile
    return {
        "bundle": str(bundle),
        "goal": profile.goal,
        "device": asdict(profile.device),
        "settings": profile.settings.to_dict(),
        "measured": profile.measured,
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


def _draw(tuning: Tuning, bundle: str) -> Iterator[str]:
    """What was tried and chosen, as lines of at most 80 columns."""
    profile, chosen = tuning.profile, tuning.profile.settings
    yield f"{bundle[:30]}: {_GOAL_WORDS[profile.goal]}, measured for {tuning.seconds:.0f} s"
    yield f"{profile.device.cpu[:60]}, {profile.device.n_cpus} CPUs"
    yield ""
    yield f"{'picture':<10}{'threads':>8}{'spinning':>10}{'runs':>6}{'seconds':>10}"
    for picture in tuning.vision:
        settings = picture.settings
        is_chosen = all(getattr(settings, name) == getattr(chosen, name) for name in _VISION_FIELDS)
        yield (
            f"{'':<10}{settings.n_vision_threads:>8}{_yes(settings.vision_spinning):>10}"
            f"{len(picture.samples):>6}{picture.median(lambda run: run.encode_s):>10.3f}{_mark(is_chosen)}"
        )
    yield ""
    memory = f"{'memory':>10}" if tuning.peaks else ""
    yield (
        f"{'language':<10}{'threads':>8}{'repack':>8}{'batch':>6}{'flash':>6}{'kv':>6}{'runs':>6}"
        f"{'prefill':>9}{'decode':>8}{memory}"
    )
    for trial in tuning.language:
        settings = trial.settings
        memory = f"{format_bytes(tuning.peaks[settings]):>10}" if tuning.peaks else ""
        yield _language_row(trial) + memory + _mark(_speaks_alike(settings, chosen))
    yield ""
    yield (
        f"a turn of {tuning.n_positions} positions and 64 answer tokens: {profile.measured['turn_s']:.2f} s; "
        "prefill, decode: /s"
    )
    if len(tuning.vision) == len(tuning.language) == 1:
        yield f"There was no time to compare anything. Try again with --seconds {min(3600, 4 * tuning.seconds):.0f}"


def _language_row(trial: Trial[LanguageFigures]) -> str:
    settings = trial.settings.to_dict()
    prefill, decode = trial.median(lambda run: run.prefill_tps), trial.median(lambda run: run.decode_tps)
    return (
        f"{'':<10}{settings['n_threads']:>8}{_yes(settings['repack']):>8}{settings['n_batch']:>6}"
        f"{settings['flash_attention']:>6}{settings['kv_type']:>6}{len(trial.samples):>6}{prefill:>9.1f}{decode:>8.1f}"
    )


def _speaks_alike(one: DeviceSettings, other: DeviceSettings) -> bool:
    mine, its = one.to_dict(), other.to_dict()
    return all(mine[name] == its[name] for name in mine if name not in _VISION_FIELDS)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _mark(is_chosen: bool) -> str:
    return " *" if is_chosen else ""
