"""The other process of test_matrix.test_fresh_process: load what it finds in a folder, and run it."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

import llava_teamlora  # noqa: F401  peft knows the methods by this import alone

folder = Path(sys.argv[1])
found = {}
for name, model, native in json.loads((folder / "cases.json").read_text()):
    auto: Any = AutoModelForCausalLM if model == "llama" else AutoModelForImageTextToText
    inputs = torch.load(folder / f"{model}.pt")
    with torch.no_grad():
        loaded = PeftModel.from_pretrained(auto.from_pretrained(folder / model), folder / name).eval()
        found[name] = [loaded(**inputs).logits]
        if native:
            plain = auto.from_pretrained(folder / model)
            plain.load_adapter(folder / name)
            found[name].append(plain.eval()(**inputs).logits)
torch.save(found, folder / "found.pt")
