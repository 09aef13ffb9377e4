"""One of the two processes of process_pair.py: trains as the command line would, as often as it is told to.

Usage: pair_worker.py, with RANK and the like in the environment. A command is one line of JSON on stdin:
``{"argv": […], "plans": […], "environment": {…}, "folder": …, "seconds": …}``. The answer is one line on what was
stdout, ``{"status": …, "error": …}``; the first says that all is imported. What training prints goes to stderr.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import json
import os
import sys
import traceback
import warnings
from typing import Any

import plans
from accelerate.state import AcceleratorState, GradientState
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from llava_teamlora.errors import UserError
from llava_teamlora.training.run import train


def obey(command: dict[str, Any]) -> dict[str, Any]:
    """Train once; a process that hangs says where it does before it is killed."""
    before, place = dict(os.environ), os.getcwd()
    os.environ.update(command["environment"])
    os.chdir(command["folder"])
    faulthandler.dump_traceback_later(command["seconds"] - 2, file=sys.stderr)
    try:
        with contextlib.ExitStack() as stack:
            for plan in command["plans"]:
                stack.enter_context(getattr(plans, plan)())
            return {"status": train(command["argv"]), "error": None}
    except UserError as error:
        return {"status": 1, "error": str(error)}
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return {"status": 2, "error": repr(error)}
    finally:
        faulthandler.cancel_dump_traceback_later()
        os.chdir(place)
        os.environ.clear()
        os.environ.update(before)
        unset_hf_deepspeed_config()
        GradientState._reset_state()
        AcceleratorState._reset_state(reset_partial_state=True)
        gc.collect()


def leave_out_compiling() -> None:
    """DeepSpeed compiles an operation of inference on its first use on a machine, for a minute or more.

    Whoever is killed meanwhile leaves a lock behind, on which all later ones would wait for ever.
    """
    with contextlib.suppress(ImportError):
        backend: Any = importlib.import_module("deepspeed.comm.torch")
        backend.build_shm_op = lambda: None


def main() -> None:
    leave_out_compiling()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
    print(json.dumps({"status": 0}), file=answers, flush=True)  # all is imported
    for line in sys.stdin:
        answer = obey(json.loads(line))
        sys.stdout.flush()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
