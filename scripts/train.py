"""What a LLaVA script calls in place of ``llava/train/train_mem.py``: ``deepspeed scripts/train.py --deepspeed …``."""

import sys

from llava_teamlora.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["train", *sys.argv[1:]]))
