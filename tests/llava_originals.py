"""Tiny original LLaVAs, written by hand as haotian-liu/LLaVA writes them, and its forward pass in a few lines.

Nothing here goes through the package: keys, files and the order of computation are LLaVA's own (its builder.py,
llava_arch.py, train.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

WIDTH, FEATURES, RANK, ALPHA = 16, 12, 2, 6
IMAGE = -200
"""Stands for a picture in LLaVA's token ids."""
TARGETS = ("q_proj", "down_proj")


@dataclass(frozen=True)
class Originals:
    """What LLaVAs are made of, and where.

    Attributes:
        root: folder of all.
        llm: a language model of 820 tokens, in ``root/llm``.
        tower: a vision tower, in ``root/clip``.
        projector: two linears with a GELU between.
    """

    root: Path
    llm: LlamaForCausalLM
    tower: CLIPVisionModel
    projector: nn.Sequential

    @property
    def config(self) -> dict[str, Any]:
        """As LLaVA saves it: Llama's fields, old names of them, and its own."""
        return {
            "architectures": ["LlavaLlamaForCausalLM"],
            "model_type": "llava_llama",
            "_name_or_path": str(self.root / "llm"),
            "hidden_size": WIDTH,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": 820,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-05,
            "rope_theta": 500.0,
            "rope_scaling": None,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "use_cache": True,
            "use_mm_proj": True,
            "mm_vision_tower": str(self.root / "clip"),
            "mm_hidden_size": FEATURES,
            "mm_projector_type": "mlp2x_gelu",
            "mm_vision_select_layer": -2,
            "mm_vision_select_feature": "patch",
            "mm_use_im_start_end": False,
            "mm_use_im_patch_token": False,
            "image_aspect_ratio": "pad",
            "tokenizer_model_max_length": 2048,
            "tokenizer_padding_side": "right",
        }

    def full_weights(self, tower: bool = False) -> dict[str, Tensor]:
        """All weights of a whole LLaVA under its own names."""
        weights = {name: value.clone() for name, value in self.llm.state_dict().items()}
        weights |= {f"model.mm_projector.{name}": value for name, value in self.projector.state_dict().items()}
        if tower:
            inside = self.tower.state_dict().items()
            beginning = "model.vision_tower.vision_tower.vision_model."
            weights |= {beginning + name.removeprefix("vision_model."): value for name, value in inside}
        return {name: value.detach().contiguous() for name, value in weights.items()}

    def lora_weights(self) -> dict[str, Tensor]:
        """An adapter under peft's names of it in LLaVA."""
        torch.manual_seed(7)
        found: dict[str, Tensor] = {}
        for name, module in self.llm.named_modules():
            if isinstance(module, nn.Linear) and name.endswith(TARGETS):
                found[f"base_model.model.{name}.lora_A.weight"] = torch.randn(RANK, module.in_features)
                found[f"base_model.model.{name}.lora_B.weight"] = torch.randn(module.out_features, RANK)
        return found

    def folder(self, name: str, **changes: Any) -> Path:
        """A new folder with a config and nothing else."""
        path = self.root / name
        path.mkdir()
        (path / "config.json").write_text(json.dumps({**self.config, **changes}))
        return path

    def full(self, name: str = "full", tower: bool = False, **changes: Any) -> Path:
        """A whole LLaVA in two ``.bin`` files with an index, with the tokenizer."""
        path, weights = self.folder(name, **changes), self.full_weights(tower)
        names = sorted(weights)
        files = {f"pytorch_model-0000{i + 1}-of-00002.bin": names[i::2] for i in range(2)}
        for file, inside in files.items():
            torch.save({name: weights[name] for name in inside}, path / file)
        where = {name: file for file, inside in files.items() for name in inside}
        (path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
        AutoTokenizer.from_pretrained(self.root / "llm").save_pretrained(path)
        return path

    def lora(self, name: str = "lora", base: str | None = None, **changes: Any) -> Path:
        """A LoRA of the language model with the projector beside it."""
        path = self.folder(name, **changes)
        adapter = {
            "base_model_name_or_path": str(self.root / "llm") if base is None else base,
            "bias": "none", "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
            "layers_to_transform": None, "lora_alpha": ALPHA, "lora_dropout": 0.05, "modules_to_save": None,
            "peft_type": "LORA", "r": RANK, "revision": None, "target_modules": list(TARGETS), "task_type": "CAUSAL_LM",
        }  # fmt: skip
        (path / "adapter_config.json").write_text(json.dumps(adapter))
        torch.save(self.lora_weights(), path / "adapter_model.bin")
        beginning = "base_model.model.model.mm_projector."
        torch.save({beginning + k: v for k, v in self.projector.state_dict().items()}, path / "non_lora_trainables.bin")
        return path

    def pretrained(self, name: str = "projector") -> Path:
        """What LLaVA's pretraining leaves: the projector alone."""
        path = self.folder(name, tune_mm_mlp_adapter=True)
        weights = {f"model.mm_projector.{k}": v for k, v in self.projector.state_dict().items()}
        torch.save(weights, path / "mm_projector.bin")
        return path

    def merged(self) -> LlamaForCausalLM:
        """The language model with the LoRA in it."""
        import copy

        model, updates = copy.deepcopy(self.llm), self.lora_weights()
        with torch.no_grad():
            for name, module in model.named_modules():
                if f"base_model.model.{name}.lora_A.weight" in updates:
                    a, b = (updates[f"base_model.model.{name}.lora_{kind}.weight"] for kind in "AB")
                    module.weight += ALPHA / RANK * (b @ a)  # pyright: ignore
        return model

    @torch.no_grad()
    def logits(self, ids: list[int], pixels: Tensor, llm: LlamaForCausalLM | None = None) -> Tensor:
        """LLaVA's forward pass of one sequence, ``IMAGE`` standing for the picture: ``[T, V]``."""
        llm = llm or self.llm
        features = self.tower(pixels[None], output_hidden_states=True).hidden_states[-2][:, 1:]
        picture = self.projector(features)[0]  # [P, D]
        embed = llm.get_input_embeddings()
        parts = [picture if token == IMAGE else embed(torch.tensor([token])) for token in ids]
        return llm(inputs_embeds=torch.cat(parts)[None]).logits[0]


def make_originals(root: Path, tiny: str) -> Originals:
    """Draw a language model, a tower and a projector, and write the first two.

    Args:
        root: folder to write into.
        tiny: the embedded base, whose tokenizer is taken.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=820, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=512, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.3,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=FEATURES, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=64,
        patch_size=16, initializer_factor=3.0,
    )  # fmt: skip
    llm, tower = LlamaForCausalLM(config).eval(), CLIPVisionModel(vision).eval()
    projector = nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
    llm.save_pretrained(root / "llm")
    tower.save_pretrained(root / "clip")
    CLIPImageProcessorPil.from_pretrained(tiny).save_pretrained(root / "clip")
    backend = json.loads(AutoTokenizer.from_pretrained(tiny).backend_tokenizer.to_str())
    backend["added_tokens"] = [token for token in backend["added_tokens"] if token["content"] != "<image>"]
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(root / "llm")
    return Originals(root, llm, tower, projector)
