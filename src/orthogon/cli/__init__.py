"""The command line: `main`, one file per command, and the exit codes."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import shlex
import sys
from collections.abc import Sequence
from typing import cast

import tyro

from orthogon.cli.screen import Command, Screen, show
from orthogon.cli.words import NearChance

HELP = """orthogon: how far apart are the classes of an image classifier?

It finds the smallest patch that turns one class into another, for every pair of classes. A small one is a weakness,
planted or natural: know it before somebody uses it.

First steps
  orthogon demo                      see it all on built-in data, in about a minute: plant a backdoor, and look for it
  orthogon measure --model net.safetensors --arch resnet20 --data images/
                                     your own model; images/ has a folder of pictures per class

Commands
  demo        plant a backdoor in a small model of signs, measure it, see whether the distances give it away
  measure     class distances of a model: table, distances.json, triggers.safetensors, report.html
  evaluate    accuracy of a model, in all and per class; with --pgd also under attack, with --stamp on stamped images
  harden      enlarge the class distances of a model (MOTH and its baselines): a new checkpoint, before and after
  remove      take a planted backdoor out of a model, with clean images alone; accuracy and success rate before and after
  scan        is there a backdoor in it? a verdict on a model, or on a folder of them, with pair, trigger and evidence
  bench       a paper's table on your own models: hardening methods, removers, scanners; published figures beside yours
  trojai      the probability that a model has a backdoor, by the interface of TrojAI's containers
  train       train a model, good enough to be measured
  train-decoder  an encoder's way back to images, for pervasive triggers
  poison      plant a backdoor of one of the published attacks in a model, and tell whether it took
  stamp       what an attack does to a picture, or to a folder of them
  zoo         clean and poisoned models with a card each: list, build, fetch, and a gallery of their triggers
  compare     two measured runs side by side, such as before and after hardening
  report      write report.html of a run again
  card        distances of a run as a section for a model card

  orthogon COMMAND --help            all words of a command, with examples

Results stand in a run folder (--out, or one of its own under runs/). A run that was interrupted or killed goes on
when the same command is given again. Messages go to standard error; --json prints the result alone on standard output.

Exit codes
  0    done
  2    the input or the command is wrong (the message says what; ORTHOGON_DEBUG=1 shows where)
  3    the model's accuracy is near chance, so distances would mean nothing (--force goes on)
  4    the run folder holds a run of other settings
  5    memory or disk space ran out; the same command may do where there is more
  10   scan: backdoored; 11: inconclusive; 12: of several models, one could not be scanned
  130  interrupted; the same command goes on from there
"""


def _command(name: str) -> type[Command]:
    """The class of a command; imported here, so that help need not wait for what other commands import."""
    match name:
        case "demo":
            from orthogon.cli.demo import Demo

            return Demo
        case "measure":
            from orthogon.cli.measure import Measure

            return Measure
        case "evaluate":
            from orthogon.cli.evaluate import Evaluate

            return Evaluate
        case "harden":
            from orthogon.cli.harden import Harden

            return Harden
        case "remove":
            from orthogon.cli.remove import Remove

            return Remove
        case "scan":
            from orthogon.cli.scan import Scan

            return Scan
        case "trojai":
            from orthogon.cli.trojai import TrojAI

            return TrojAI
        case "bench":
            from orthogon.cli.bench import Bench

            return Bench
        case "train":
            from orthogon.cli.train import Train

            return Train
        case "train-decoder":
            from orthogon.cli.train_decoder import TrainDecoder

            return TrainDecoder
        case "poison":
            from orthogon.cli.poison import Poison

            return Poison
        case "stamp":
            from orthogon.cli.stamp import Stamp

            return Stamp
        case "zoo":
            from orthogon.cli.zoo import Zoo

            return Zoo
        case "compare":
            from orthogon.cli.compare import Compare

            return Compare
        case "report":
            from orthogon.cli.report import Report

            return Report
        case "card":
            from orthogon.cli.card import Card

            return Card
        case _:
            raise ValueError(f"{name!r} is not a command; `orthogon --help` lists them")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after "orthogon"; those of the process without it.

    Returns:
        The exit code, as `orthogon --help` lists them.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(version("orthogon"))
        return 0
    screen = Screen()
    try:
        return _run(words, screen)
    except SystemExit as parsed:  # tyro's way out after help (0) and after wrong words (2)
        return parsed.code if isinstance(parsed.code, int) else 2
    except KeyboardInterrupt:
        again = [word for word in words if word != "--fresh"]  # which would begin anew
        screen.say(f"interrupted; what is finished is kept, go on with:\n  {shlex.join(['orthogon', *again])}")
        return 130
    except Exception as error:
        if os.environ.get("ORTHOGON_DEBUG") or (code := _exit_code(error)) is None:
            raise
        screen.say(f"orthogon {words[0]}: {error or type(error).__name__}")
        return code


def parse(words: Sequence[str]) -> Command:
    """The command that these words (those after "orthogon") ask for.

    Raises:
        SystemExit: after its help (0), or after a message about wrong words (2).
        ValueError: there is no command of that name.
    """
    kind = _command(words[0])
    parsed = tyro.cli(
        kind,
        default=kind.preset(words[1:]),
        prog=f"orthogon {words[0]}",
        description=inspect.getdoc(kind),
        args=list(words[1:]),
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
    )
    return cast(Command, parsed)


def _run(words: list[str], screen: Screen) -> int:
    command = parse(words)
    with contextlib.redirect_stdout(sys.stderr):  # libraries print; standard output is for the result alone
        result = command.run(screen)
    if command.json:
        print(json.dumps(result.data, allow_nan=False, ensure_ascii=False))
    else:
        show(result)
    return result.code


def _exit_code(error: Exception) -> int | None:
    """The exit code of what a user can mend; None for a bug, which deserves its traceback."""
    from orthogon.memory import out_of_memory
    from orthogon.runs import DiskFull, OtherSettings

    if isinstance(error, NearChance):
        return 3
    if isinstance(error, OtherSettings):
        return 4
    if out_of_memory(error) or isinstance(error, DiskFull):
        return 5
    return 2 if isinstance(error, ValueError | OSError | ImportError) else None
