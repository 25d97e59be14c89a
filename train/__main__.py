"""The training process: `python -m selfstudy_engine.train` with a configuration and paths.

Writes JSON lines to stdout; the last is {"event": "done", ...} or {"event": "error", ...}.
Of several processes that `accelerate launch` starts, the first writes them, and each its own error.
"""

import argparse
import signal
import sys
from pathlib import Path

from selfstudy_engine.data.config import load_config
from selfstudy_engine.data.errors import SelfStudyError
from selfstudy_engine.data.os_errors import explain
from selfstudy_engine.data.parent_death import end_with_parent
from selfstudy_engine.train.lines import write_line


def main(arguments: list[str]) -> int:
    """Train one adapter as the arguments say; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m selfstudy_engine.train")
    parser.add_argument("--config", type=Path, required=True, help="run.toml")
    parser.add_argument("--model", required=True, help="folder or hub id of the base model")
    parser.add_argument("--exemplars", type=Path, help="JSONL file [default: the shipped ones]")
    parser.add_argument("--samples", type=Path, help="folder of a store")
    parser.add_argument("--before-round", type=int, help="only samples of earlier rounds")
    parser.add_argument("--previous", type=Path, help="adapter to continue from")
    parser.add_argument("--output", type=Path, required=True, help="the adapter's new folder")
    values = vars(parser.parse_args(arguments))
    try:
        from selfstudy_engine.train.processes import launched, processes
        from selfstudy_engine.train.trainer import TrainingJob, train_adapter

        if launched():
            end_with_parent(signal.SIGKILL)  # its launcher, which may be killed
        config = load_config(values.pop("config"))
        training = train_adapter(TrainingJob(config=config, **values))
    except SelfStudyError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:  # a full disk
        return _fail(explain(error), 2)
    if processes().is_main_process:
        write_line({"event": "done", **training})
    processes().destroy_process_group()
    return 0


def _fail(message: str, exit_code: int) -> int:
    write_line({"event": "error", "message": message, "exit_code": exit_code})
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
