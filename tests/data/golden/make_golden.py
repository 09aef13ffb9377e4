"""Makes the golden files beside it by running LLaVA's own code; see README.md for what and how."""

from __future__ import annotations

import argparse
import ast
import base64
import copy
import hashlib
import json
import lzma
import re
import struct
import subprocess
import types
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import tokenizers
import torch
import transformers
from PIL import Image

HERE = Path(__file__).parent
LLAVA = "c121f0432da27facab705978f83c4ada465e46fd"
LLAVA_NEXT = "df179663ae8b83207df100a1f7af24caec633ff9"
TRAIN = "llava/train/train.py"
IM_TOKENS = ["<im_start>", "<im_end>"]
CHATML_TOKENS = ["<|im_start|>", "<|im_end|>"]
LLAMA_3_TOKENS = ["<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_special_token_{i}|>" for i in range(4))]
LLAMA_3_TOKENS += ["<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>"]
LLAMA_3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_3_CHAT = (
    "{% for message in messages %}{% if loop.index0 == 0 %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
)


def source(repository: Path, commit: str, path: str) -> str:
    """A file of a repository at a commit."""
    command = ["git", "-C", str(repository), "show", f"{commit}:{path}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def load_llava(repository: Path, commit: str) -> types.SimpleNamespace:
    """LLaVA's functions that turn records into ids and pictures into pixels, without what else its modules import."""
    conversation = types.ModuleType("conversation")
    text = source(repository, commit, "llava/conversation.py")
    # LLaVA-NeXT's module downloads Llama 3's tokenizer when it is imported; ours is put in where it is used.
    text = re.sub(r"(?m)^(\s*)tokenizer=safe_load_tokenizer\(.*\),$", r"\1tokenizer=None,", text)
    import sys

    sys.modules["conversation"] = conversation  # dataclasses look their module up
    exec(text, conversation.__dict__)  # noqa: S102
    names: dict[str, Any] = {"torch": torch, "transformers": transformers, "copy": copy, "re": re, "Image": Image}
    names |= {name: getattr(__import__("typing"), name) for name in ("Dict", "Sequence", "List")}
    names |= {"conversation_lib": conversation, "DataArguments": object, "IS_TOKENIZER_GREATER_THAN_0_14": True}
    exec(source(repository, commit, "llava/constants.py"), names)  # noqa: S102
    for path in ("llava/mm_utils.py", TRAIN):
        wanted = re.compile(
            r"preprocess\w*|_mask_targets|_tokenize_fn|_add_speaker\w*|tokenizer_image_token|expand2.*|process_images"
        )
        for node in ast.parse(source(repository, commit, path)).body:
            if isinstance(node, ast.FunctionDef) and wanted.fullmatch(node.name):
                exec(ast.unparse(node), names)  # noqa: S102
    return types.SimpleNamespace(**names)


def read_llama(package: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Llama's 32,000 tokens in the order of their ids, and its merges, out of llama-tokenizer-js."""
    text = (package / "llama-tokenizer.js").read_text(encoding="utf-8")
    encoded, merges = (
        re.search(rf'const {n} = "([^"]+)"', text) for n in ("llama_vocab_base64", "llama_merges_binary")
    )
    assert encoded and merges
    vocab = base64.b64decode(encoded[1]).decode("utf-8").split("\n")
    raw = base64.b64decode(merges[1])
    flat = struct.unpack(f"<{len(raw) // 2}H", raw)
    return vocab, [(vocab[a], vocab[b]) for a, b in zip(flat[::2], flat[1::2], strict=True)]


def read_llama_3(package: Path, texts: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Llama 3's tokens, real ids and merges out of llama3-tokenizer-js, as far as they can occur in these texts.

    A merge whose result is no substring of any text never applies, so that the rest gives the same ids as the whole.
    """
    data = (package / "src" / "data-converted.js").read_text(encoding="utf-8")
    encoded, merges = re.findall(r'= "([^"]+)"', data)[:2]
    vocab = base64.b64decode(encoded).decode("utf-8").split("\n")
    bits = int.from_bytes(base64.b64decode(merges), "big")
    count = len(base64.b64decode(merges)) * 8
    ids = [(bits >> (count - 17 * (i + 1))) & 0x1FFFF for i in range(count // 17)]
    pairs = [(vocab[a], vocab[b]) for a, b in zip(ids[::2], ids[1::2])]  # noqa: B905  a last odd one is padding
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    written = "\0".join(piece for text in texts for piece, _ in byte_level.pre_tokenize_str(text))
    kept = [(a, b) for a, b in pairs if a + b in written]
    single = [token for token in vocab if len(token) == 1]
    number = {token: i for i, token in enumerate(vocab)}
    tokens = {token: number[token] for token in (*single, *(a + b for a, b in kept), *(t for p in kept for t in p))}
    special = {token: len(vocab) + i for i, token in enumerate([*LLAMA_3_TOKENS, *CHATML_TOKENS])}
    return {**dict(sorted(tokens.items(), key=lambda item: item[1])), **special}, kept


def sentencepiece_model(vocab: list[str]) -> bytes:
    """Llama's ``tokenizer.model``, put together again.

    A piece's score is minus its place after the first merged one; runs of spaces come last of all. It is the order of
    the merges, which were made from Llama's own file.
    """
    from sentencepiece import sentencepiece_model_pb2 as proto  # pyright: ignore[reportMissingImports]

    model = proto.ModelProto()
    for i, piece in enumerate(vocab):
        kind = 2 if i == 0 else 3 if i < 3 else 6 if i < 259 else 1  # unknown, control, byte, normal
        score = 0.0 if i < 259 else -1e9 if set(piece) == {"▁"} else float(259 - i)
        model.pieces.add(piece=piece, score=score, type=kind)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.byte_fallback, trainer.vocab_size = 2, True, len(vocab)
    normalizer.name, normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces = "identity", True, False
    return model.SerializeToString()


def slow_llama(vocab: list[str], folder: Path, legacy: bool) -> Any:
    """The tokenizer LLaVA trains with (``use_fast=False``)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(vocab))
    tokenizer = transformers.LlamaTokenizer(str(folder / "tokenizer.model"), legacy=legacy, model_max_length=2048)
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.unk_token, "right"
    return tokenizer


def fast_llama_3(vocab: dict[str, int], merges: list[tuple[str, str]], bos: bool) -> Any:
    """Llama 3's tokenizer; without a bos it stands for MPT's, which is byte-level too and has none."""
    raw = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges))
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(LLAMA_3_SPLIT), "isolated")
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level])
    raw.decoder = tokenizers.decoders.ByteLevel()
    raw.add_special_tokens([*LLAMA_3_TOKENS, *CHATML_TOKENS])  # they keep the ids they have in the vocabulary
    if bos:
        token = LLAMA_3_TOKENS[0]
        special = [(token, vocab[token])]
        raw.post_processor = tokenizers.processors.TemplateProcessing(f"{token} $A", special_tokens=special)
    names = {"bos_token": LLAMA_3_TOKENS[0] if bos else None, "eos_token": "<|eot_id|>" if bos else "<|im_end|>"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<|end_of_text|>", padding_side="right", model_max_length=2048, **names
    )
    tokenizer.chat_template = LLAMA_3_CHAT
    return tokenizer


def preprocess(llava: types.SimpleNamespace, record: dict, tokenizer: Any, version: str, im_start_end: bool) -> dict:
    """Ids and labels as ``LazySupervisedDataset.__getitem__`` makes them; labels as the spans that are trained."""
    llava.conversation_lib.default_conversation = llava.conversation_lib.conv_templates[version]
    settings = types.SimpleNamespace(is_multimodal=True, mm_use_im_start_end=im_start_end)
    turns = copy.deepcopy([record["conversations"]])
    has_image = "image" in record
    made = llava.preprocess(llava.preprocess_multimodal(turns, settings) if has_image else turns, tokenizer, has_image)
    ids, labels = made["input_ids"][0].tolist(), made["labels"][0].tolist()
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
    edges = [
        i for i in range(len(ids) + 1) if (i < len(ids) and labels[i] != -100) != (i > 0 and labels[i - 1] != -100)
    ]
    return {"ids": ids, "trained": [list(span) for span in zip(edges[::2], edges[1::2], strict=True)]}


def golden_ids(llava: types.SimpleNamespace, newer: types.SimpleNamespace, packages: Path, scratch: Path) -> dict:
    """Ids and labels of all records: tokenizer -> template -> record -> ids and trained spans, each by name."""
    records = json.loads((HERE / "records.json").read_text(encoding="utf-8"))
    vocab, merges = read_llama(packages / "llama-tokenizer-js")
    write("llama.json.xz", {"vocab": vocab, "merges": merges})
    named = {"v1_im_start_end": ("v1", True), "plain_im_start_end": ("plain", True)}
    llama = ["v1", "llava_v1", "v1_mmtag", "v0", "v0_mmtag", "plain", "llama_2", "llava_llama_2", "mistral_instruct"]
    llama += ["mpt", "chatml_direct", *named]
    found: dict[str, dict] = {}
    for legacy in (False, True):
        tokenizer = slow_llama(vocab, scratch / f"legacy-{legacy}", legacy)
        tokenizer.add_tokens([*IM_TOKENS, *CHATML_TOKENS], special_tokens=True)
        found["llama-legacy" if legacy else "llama"] = every(llava, newer, records, tokenizer, llama, named)
        tokenizer.model_max_length = 70  # LLaVA's tokenizer truncates conversations without a picture
        text_only = [record for record in records if "image" not in record]
        found["llama-legacy-70" if legacy else "llama-70"] = every(llava, newer, text_only, tokenizer, llama[:9], {})

    conversation = newer.conversation_lib
    systems = [template.system for template in conversation.conv_templates.values()]
    texts = [turn["value"] for record in records for turn in record["conversations"]]
    texts += [
        *systems,
        *(f"{a}{text}{b}" for text in texts for a, b in (("\n\n", ""), ("\n", ""))),
        "user",
        "assistant",
    ]
    parts = [part for text in texts for part in re.split("<image>", text)]
    vocab_3, merges_3 = read_llama_3(packages / "llama3-tokenizer-js", [*parts, *(part.strip() for part in parts)])
    write("llama_3.json.xz", {"vocab": vocab_3, "merges": merges_3})
    found["llama_3"] = every(newer, newer, records, fast_llama_3(vocab_3, merges_3, bos=True), ["llava_llama_3"], {})
    bare = fast_llama_3(vocab_3, merges_3, bos=False)
    found["bytes"] = every(llava, newer, records, bare, ["mpt", "chatml_direct"], {})
    return found


def every(
    llava: types.SimpleNamespace,
    newer: types.SimpleNamespace,
    records: list[dict],
    tokenizer: Any,
    names: list[str],
    options: dict[str, tuple[str, bool]],
) -> dict[str, dict]:
    """All templates over all records they can take; several pictures by LLaVA-NeXT, which leaves them in place."""
    found: dict[str, dict] = {}
    for name in names:
        version, im_start_end = options.get(name, (name, False))
        found[name] = {}
        for record in records:
            several = isinstance(record.get("image"), list)
            if version == "plain" and (several or len(record["conversations"]) != 2 or "image" not in record):
                continue
            if several and version not in ("v1", "llava_llama_3"):
                continue
            found[name][record["id"]] = preprocess(
                newer if several else llava, record, tokenizer, version, im_start_end
            )
    return found


def draw_pictures(folder: Path) -> None:
    """Pictures of odd shapes and kinds, of a few kB in all; PNG, so that no decoder rounds them in its own way."""
    folder.mkdir(exist_ok=True)
    drawn = {"wide": (101, 37), "tall": (20, 77), "square": (50, 50), "large": (400, 350), "column": (1, 60)}
    for name, (width, height) in drawn.items():
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        channels = [x * 255 // width, y * 255 // height, (x // 7 + y // 5) % 2 * 200]
        Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).save(folder / f"{name}.png", optimize=True)
    wide = Image.open(folder / "wide.png")
    Image.new("RGB", (1, 1), (200, 30, 90)).save(folder / "pixel.png")
    wide.convert("L").save(folder / "grey.png")
    wide.convert("1").save(folder / "bits.png")
    wide.convert("P", palette=Image.Palette.ADAPTIVE, colors=16).save(folder / "palette.png", transparency=3)
    see_through = wide.copy()
    see_through.putalpha(wide.convert("L"))
    see_through.save(folder / "see_through.png")
    see_through.convert("LA").save(folder / "grey_see_through.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter; LLaVA does not
    wide.save(folder / "exif.png", exif=exif)


def golden_pixels(llava: types.SimpleNamespace, folder: Path) -> dict:
    """Per side, mode and picture: a digest of the whole 8-bit picture, and a few of the normalised values."""
    found: dict[str, dict] = {}
    for side in (336, 24):
        size = {"shortest_edge": side}, {"height": side, "width": side}
        processor = transformers.CLIPImageProcessor(size=size[0], crop_size=size[1])
        mean, std = (np.array(value)[:, None, None] for value in (processor.image_mean, processor.image_std))
        for mode in ("pad", "square"):
            settings = types.SimpleNamespace(image_aspect_ratio=mode)
            for path in sorted(folder.glob("*.png")):
                image = Image.open(path).convert("RGB")
                try:
                    pixels = llava.process_images([image], processor, settings)[0].numpy().astype(np.float64)
                except ValueError as error:  # its processor mistakes the rows of a very low picture for channels
                    found[f"{side}/{mode}/{path.stem}"] = {"error": str(error)}
                    continue
                levels = np.rint((pixels * std + mean) * 255).astype(np.uint8)
                values = [round(float(value), 6) for value in pixels.reshape(-1)[:: pixels.size // 7]]
                digest = hashlib.sha256(levels.tobytes()).hexdigest()
                found[f"{side}/{mode}/{path.stem}"] = {"sha256": digest, "values": values}
    return found


def write(name: str, content: Any) -> None:
    """As JSON, packed if the name says so."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    if name.endswith(".xz"):
        (HERE / name).write_bytes(lzma.compress(text.encode("utf-8"), preset=9 | lzma.PRESET_EXTREME))
    else:
        (HERE / name).write_text(text.replace("},", "},\n") + "\n", encoding="utf-8")


def main() -> None:
    """Write ids.json.xz, pixels.json, llama.json.xz, llama_3.json.xz and pictures/."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("llava", "llava_next", "packages", "scratch"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    llava, newer = load_llava(given.llava, LLAVA), load_llava(given.llava_next, LLAVA_NEXT)
    draw_pictures(HERE / "pictures")
    libraries = (transformers, tokenizers, torch, PIL, np)
    made_with = {module.__name__: module.__version__ for module in libraries}
    made_with |= {"LLaVA": LLAVA, "LLaVA-NeXT": LLAVA_NEXT}
    write("ids.json.xz", {"made_with": made_with, "ids": golden_ids(llava, newer, given.packages, given.scratch)})
    write("pixels.json", {"made_with": made_with, "pixels": golden_pixels(llava, HERE / "pictures")})


if __name__ == "__main__":
    main()
