"""The command line `headwater`: reads the settings and hands their values to one command."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace

from streamer import cli, log_lines
from streamer.errors import HeadwaterError
from streamer.settings import Settings

EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; 2 after a mistake that the user can mend."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(given)
    except HeadwaterError as exc:
        return _mistake(str(exc), given)
    except ModuleNotFoundError as exc:
        extra = cli.EXTRA_OF.get((exc.name or "").partition(".")[0])
        if extra is None:
            raise
        return _mistake(f"this command needs {exc.name}: pip install 'headwater[{extra}]'", given)
    except BrokenPipeError:  # `headwater … | head`; the interpreter must not flush into it once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _mistake(sentence: str, given: list[str]) -> int:
    """Called while the exception is being handled."""
    if "--debug" in given:
        traceback.print_exc()
    print(f"headwater: {sentence}", file=sys.stderr)
    return EXIT_MISTAKE


def _run(given: list[str]) -> int:
    if given and given[0] in cli.TRAINER:
        from model_export.commands import main as trainer

        return int(trainer([word for word in given if word != "--debug"]))
    args = cli.parser_for(given).parse_args(given)
    settings = Settings.load(os.environ, args.config)
    if args.debug:
        settings = replace(settings, log_level="DEBUG")
    log_lines.install(settings.log_level, settings.log_format)
    run: cli.Run = args.run
    return run(args, settings)


if __name__ == "__main__":
    sys.exit(main())
