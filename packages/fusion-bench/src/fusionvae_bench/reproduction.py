"""A table of the paper again: the commands that build its data, train its rows, score and report them."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from fusion_datasets.spec import BENCHMARKS
from fusionvae_bench.errors import BenchError
from fusionvae_bench.paper import NUM_SAMPLES, TABLES
from fusionvae_bench.rows import ROWS, Row
from fusionvae_bench.trivial import PREFIX, TRIVIAL
from fusionvae_model import PRESETS
from fusionvae_model.config import MOST_MINUTES, Preset
from fusionvae_model.progress import note

ProfileName = Literal["smoke", "quick", "full"]

_MODULES = MappingProxyType(
    {"fusion-datasets": "fusion_datasets", "fusionvae": "fusionvae_model", "fusion-bench": "fusionvae_bench"}
)
_SOURCES = MappingProxyType({"fusion-mnist": "mnist", "fusion-celeba": "celeba", "fusion-tless": "tless"})
"""Benchmark → its word in ``fusion-datasets build`` and its folder below the data root."""

_VIEWS_OF_MODELS = 60
"""Of each CAD model: the whole view sphere of all thirty takes as long as all tables by smoke."""

_STDERR = 2  # stdout is for data

_TRAINED_SHARE = 0.7
"""Of a row's minutes; a CVAE's likelihood, one pass for each number of inputs, needs most of the rest."""


@dataclass(frozen=True)
class Profile:
    """How much is spent on a table.

    Attributes:
        stand_in: rendered look-alikes instead of the originals.
        suffixes: benchmark → what the name of its preset ends in; nothing for those that are not named.
        minutes: for a row, training and scoring on 2 cores; None for the paper's epochs.
        images_per_minute: so many images are scored per minute of a row; None for all.
        num_samples: S; None for the paper's.
        rows: of the data set, at most, in each split; None for all.
    """

    stand_in: bool
    suffixes: MappingProxyType[str, str]
    minutes: float | None
    images_per_minute: float | None
    num_samples: int | None
    rows: int | None


_SMALL = MappingProxyType(dict.fromkeys(_SOURCES, "-small"))
"""A laptop's presets."""

PROFILES: MappingProxyType[str, Profile] = MappingProxyType(
    {
        "smoke": Profile(True, _SMALL, 0.25, 80, 10, 400),
        # a short training needs many steps that go far
        "quick": Profile(False, MappingProxyType(_SMALL | {"fusion-mnist": "-plus"}), 25, 12, 100, None),
        "full": Profile(False, MappingProxyType({}), None, None, None, None),
    }
)


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        purpose: what it is for, after "to".
        program: of the three commands.
        words: its arguments.
        minutes: how long it is meant to take; None where only a measurement could tell.
        here: run in this process, which has loaded torch; only where nothing follows that needs the memory.
    """

    purpose: str
    program: str
    words: tuple[str, ...]
    minutes: float | None = None
    here: bool = False

    @property
    def command(self) -> str:
        """The command as one would type it."""
        return shlex.join([self.program, *self.words])


@dataclass(frozen=True)
class Reproduction:
    """What to do for one table.

    Attributes:
        number: of the table, 1–5.
        profile: key of `PROFILES`.
        output: folder of everything.
        data_root: folder of the originals, with ``mnist/``, ``celeba/``, ``tless/``; None for stand-ins.
        minutes_per_row: instead of the profile's.
        seeds: how many trainings of each row; the paper takes the best of 3 (App. E).
        workers: processes that build and score; None leaves it to those commands.
        device: "auto", "cpu" or "cuda".
        only: titles of the rows wanted; empty for all.
        models: folder of T-LESS's CAD models to render its stand-ins from, instead of built-in solids.
    """

    number: int
    profile: ProfileName
    output: Path
    data_root: Path | None = None
    minutes_per_row: float | None = None
    seeds: int = 1
    workers: int | None = None
    device: str = "auto"
    only: tuple[str, ...] = ()
    models: Path | None = None

    def __post_init__(self) -> None:
        """Check that the profile has what it needs."""
        if self.minutes_per_row is not None and self.settings.minutes is None:
            raise BenchError("the profile full trains the paper's epochs; leave out --minutes-per-row, or take quick")
        if self.minutes_per_row is not None and not 0 < self.minutes_per_row <= MOST_MINUTES:
            raise BenchError(
                f"got {self.minutes_per_row} minutes per row; expected a number above 0 and at most {MOST_MINUTES:,}, "
                "ten years"
            )
        if self.models is not None and not (self.settings.stand_in and self.source_word == "tless"):
            raise BenchError(
                "--models are what stand-ins of T-LESS are rendered from, of which "
                f"Table {self.number} by {self.profile} has none"
            )
        titles = [row.title for row in ROWS[self.number]]
        if unknown := [title for title in self.only if title not in titles]:
            raise BenchError(f"Table {self.number} has no row {unknown[0]!r}; expected some of {', '.join(titles)}")
        if not self.settings.stand_in and self.data_root is None:
            raise BenchError(
                f"the profile {self.profile} works on the originals; name their folder, which holds "
                f"{self.source_word}/, by --data-root, or take --profile smoke for rendered look-alikes"
            )

    @property
    def settings(self) -> Profile:
        """The profile."""
        return PROFILES[self.profile]

    @property
    def benchmark(self) -> str:
        """Name of the benchmark."""
        return TABLES[self.number].benchmark

    @property
    def source_word(self) -> str:
        """The benchmark's word in ``fusion-datasets build``."""
        return _SOURCES[self.benchmark]

    @property
    def preset_name(self) -> str:
        """The preset of every row."""
        return self.benchmark + self.settings.suffixes.get(self.benchmark, "")

    @property
    def preset(self) -> Preset:
        """The preset itself.

        Raises:
            BenchError: if the installed fusionvae-model has none.
        """
        if self.preset_name not in PRESETS:
            raise BenchError(
                f"Table {self.number} needs the preset {self.preset_name!r}, which the installed fusionvae-model does "
                f"not have; it has {', '.join(PRESETS)}"
            )
        return PRESETS[self.preset_name]

    @property
    def minutes(self) -> float | None:
        """Minutes of a row."""
        return self.minutes_per_row or self.settings.minutes

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows to reproduce, in the paper's order."""
        return tuple(row for row in ROWS[self.number] if not self.only or row.title in self.only)

    @property
    def data(self) -> Path:
        """The benchmark file."""
        return self.output / f"{self.benchmark}.h5"

    @property
    def results(self) -> Path:
        """Folder of the result files of this benchmark."""
        return self.output / "results"

    @property
    def num_samples(self) -> int:
        """S."""
        return self.settings.num_samples or NUM_SAMPLES[self.benchmark]

    @property
    def num_images(self) -> int | None:
        """Images to score; None for all."""
        if self.settings.images_per_minute is None or self.minutes is None:
            return None
        return max(20, round(self.settings.images_per_minute * self.minutes))

    def steps(self) -> list[Step]:
        """Return the commands in order; each knows by itself what an earlier call has done."""
        assert self.preset  # else it raises
        steps = [self._build()]
        for seed in range(self.seeds):
            for row in reversed(self.rows):  # FusionVAE first, should the time run out
                steps += [self._train(row, seed), self._score(row, seed)]
        if self.number <= 3 and not self.only:
            steps += [self._score_trivial(name) for name in TRIVIAL]
        return [*steps, *self._report()]

    def folder(self, row: Row, seed: int) -> Path:
        """Return the folder of a row's model."""
        return self.output / "models" / f"{self._name(row, seed)}"

    def _name(self, row: Row, seed: int) -> str:
        return f"{self.source_word}-{row.slug}" + (f"-seed{seed}" if seed else "")

    def _build(self) -> Step:
        words = ["build", self.source_word, "--output", str(self.data), *self._workers()]
        if self.settings.stand_in:
            words += ["--source", "stand-in"]
            words += [] if self.models is None else ["--models", str(self.models), "--views", str(_VIEWS_OF_MODELS)]
        else:
            assert self.data_root is not None
            words += ["--source", str(self.data_root / self.source_word)]
        if self.settings.rows:
            words += ["--limit", str(self.settings.rows)]
        return Step(f"build {BENCHMARKS[self.benchmark].title}", "fusion-datasets", tuple(words))

    def _train(self, row: Row, seed: int) -> Step:
        words = ["train", *row.options, "--preset", self.preset_name, "--data", str(self.data)]
        words += ["--output", str(self.folder(row, seed)), "--seed", str(seed), "--device", self.device, "--resume"]
        minutes = self._share_of_minutes(_TRAINED_SHARE)
        if minutes is not None:
            words += ["--minutes", f"{minutes:g}"]
        return Step(f"train {row.title}", "fusionvae", tuple(words), minutes)

    def _score(self, row: Row, seed: int) -> Step:
        minutes = self._share_of_minutes(1 - _TRAINED_SHARE)
        return self._run(row.title, str(self.folder(row, seed)), self._name(row, seed), minutes)

    def _score_trivial(self, name: str) -> Step:
        return self._run(PREFIX + name, PREFIX + name, f"{self.source_word}-{name}", 0.1)

    def _run(self, title: str, weights: str, name: str, minutes: float | None) -> Step:
        words = ["run", "--weights", weights, "--data", str(self.data), "-o", str(self.results / f"{name}.json")]
        words += ["--num-samples", str(self.num_samples), "--per-image", "--device", self.device]
        if self.num_images:
            words += ["--limit", str(self.num_images), "--evenly-spaced"]
        words += self._workers()
        return Step(f"score {title}", "fusion-bench", tuple(words), minutes)

    def _share_of_minutes(self, share: float) -> float | None:
        return None if self.minutes is None else float(f"{self.minutes * share:.6g}")

    def _workers(self) -> list[str]:
        return [] if self.workers is None else ["--workers", str(self.workers)]

    def _report(self) -> list[Step]:
        rows = self.rows if self.number == 5 else self.rows[::-1]  # the paper's own model first
        shown = [word for row in rows for word in ("--weights", str(self.folder(row, 0)))]
        shown += ["--data", str(self.data), "--device", self.device, "--figures", str(self.output / "figures")]
        words = ("report", "--results", str(self.results), "--table", str(self.number))
        written = {"draw the page": (*shown, "-o", str(self.output / "index.html"))}
        written |= {
            f"write the tables as {name}": ("-o", str(self.output / f"tables.{name}")) for name in ("tex", "csv")
        }
        written |= {"print the tables": ("--format", "md")}
        return [Step(purpose, "fusion-bench", (*words, *more), here=True) for purpose, more in written.items()]


def run_steps(steps: list[Step]) -> None:
    """Run commands one after the other; the last one's stdout is ours, everything else goes to stderr.

    Raises:
        BenchError: if one fails; its own words stand above.
    """
    for number, step in enumerate(steps, 1):
        note(f"[{number}/{len(steps)}] {step.purpose}\n$ {step.command}")
        last = number == len(steps)
        if status := _run_here(step, last=last) if step.here else _run_apart(step, last=last):
            raise BenchError(
                f"could not {step.purpose} (exit status {status}): its reason stands above; call again to go "
                "on from there"
            )


def _run_apart(step: Step, *, last: bool) -> int:
    command = [sys.executable, "-m", _MODULES[step.program], *step.words]
    return subprocess.run(command, stdout=None if last else _STDERR, check=False).returncode


def _run_here(step: Step, *, last: bool) -> int:
    from fusionvae_bench.cli import main  # whose part this is

    with contextlib.nullcontext() if last else contextlib.redirect_stdout(sys.stderr):
        try:
            main(step.words, prog_name=step.program)
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0
