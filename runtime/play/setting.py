"""How a bundle is asked to play: shape, decoder, prompts, engine and threads, the same for every verb that plays one."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from ...core.bundle import Bundle
from ...core.config import ClipSpec
from ...core.errors import ConfigError, InputError
from ...core.memory import require
from ...core.plan.phases import PROMPT
from ..engines import open_engine
from .player import Player, PlayerConfig, Progress, memory_needed
from .prompts import read_prompts

PACK = 'echoedge checkpoint prompts FOLDER "a woman talks" --out PACK'  # how one is made


_SHAPE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})x([0-9]{1,5})")


@dataclass(frozen=True)
class Wanted:
    """What a user asks for; None: what the bundle has. `clip`: HEIGHTxWIDTHxFRAMES; `decoder`: full or tiny; `prompts`: a pack of
    prompts beside the bundle's; `threads`: of the engine."""

    engine: str = "auto"
    clip: str | None = None
    decoder: str | None = None
    prompts: Path | None = None
    prompt: str | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Setting:
    """What was asked for, found in the bundle. `decoder`: the program, None where it is left open."""

    bundle: Bundle
    clip: ClipSpec
    config: PlayerConfig
    decoder: str | None
    engine: str
    threads: int | None

    @classmethod
    def of(cls, bundle: Bundle, wanted: Wanted) -> Setting:
        """Raises:
        ConfigError: the bundle has no such shape or decoder.
        InputError: the pack of prompts cannot be read, or is another model's.
        """
        clip = clip_of(bundle, wanted.clip)
        config = PlayerConfig.of(bundle, clip)
        if wanted.prompts is not None:
            known = read_prompts(wanted.prompts, config.playing.text_dim)
            config = replace(config, prompts={**config.prompts, **known})
        return cls(bundle, clip, config, decode_program(bundle, wanted.decoder), wanted.engine, wanted.threads)

    @property
    def reads_text(self) -> bool:
        """Whether the bundle has a text encoder: any prompt plays."""
        return "text_encoder" in self.bundle.roles

    def prompt(self, given: str | None, default: str, any_of_several: bool = False) -> str:
        """The prompt to play: `given`; or `default`, where the bundle reads any; or the one that is known, or the first of several.

        Raises:
            InputError: none was given, and none or several are known.
        """
        if given is not None:
            return given
        if self.reads_text:
            return default
        own = own_prompts(self.config)
        known = [text for text in self.config.prompts if text not in own]
        if not known:
            raise InputError(
                f"{self.bundle.root} has no text encoder and no prompts. Give some with --prompts PACK; make it with: {PACK}."
            )
        if len(known) > 1 and not any_of_several:
            told = ", ".join(map(repr, known))
            raise InputError(f"{self.bundle.root} has no text encoder. Say with --prompt which of its prompts to play: {told}.")
        return known[0]

    def player(self, seconds: float, progress: Progress = lambda *_: None) -> Player:
        """Opens the engine, for `seconds` of speech.

        Raises:
            ResourceError: memory is short.
            EngineError: there is no such engine, or it cannot play this.
        """
        require(memory_needed(self.bundle, seconds, self.decoder), "playing this clip")
        return Player(self.config, open_engine(self.bundle, self.engine, self.clip, self.threads), progress, self.decoder)


def own_prompts(config: PlayerConfig) -> set[str]:
    """Texts among a player's prompts that its plan needs for itself, such as a negative one: not what a clip is asked for."""
    texts = config.plan.texts
    return {texts.get(branch.text, branch.text) for branch in config.plan.branches if branch.text != PROMPT}


def decode_program(bundle: Bundle, decoder: str | None) -> str | None:
    """The program of a decoder; None where it is left open.

    Raises:
        ConfigError: the bundle does not have it.
    """
    if decoder is None:
        return None
    there = bundle.manifest.playing.decoders
    if decoder not in there:
        raise ConfigError(f"--decoder is {decoder!r}; {bundle.root} has: {', '.join(there)}.")
    return there[decoder]


def clip_of(bundle: Bundle, shape: str | None) -> ClipSpec:
    """The bundle's shape called HEIGHTxWIDTHxFRAMES, the main one by default; of programs that serve every shape, any.

    Raises:
        ConfigError: the bundle does not play it.
    """
    there = {str(clip): clip for clip in bundle.clips}
    if shape is None:
        return bundle.clip
    if shape in there:
        return there[shape]
    found = _SHAPE.fullmatch(shape)
    if found and all(program.clip is None for program in bundle.manifest.programs.values()):
        height, width, frames = map(int, found.groups())
        clip = ClipSpec(height, width, frames, bundle.clip.fps, bundle.clip.sample_rate)
        if bundle.plays(clip):
            return clip
    raise ConfigError(f"--clip is {shape!r}; {bundle.root} plays: {', '.join(there)}.")
