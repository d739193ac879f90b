"""Writes __test__/fixtures/text: prompts in many scripts, and the texts and token ids that diffusers' Flux2KleinPipeline
and Flux2Pipeline give their text encoders for them, with the real vocabularies: Qwen's as it ships in `dashscope`,
Mistral's Tekken as it ships in `mistral-common`.

    pip install torch diffusers transformers dashscope mistral-common pillow
    python tools/text_fixtures.py --full build/tokenizers

`--full` gets the whole tokenizer folders (28 MB). The fixtures have what the prompts touch of them: all bytes, all special
tokens, every token on the way to one that is in a prompt, and all merges between these, each under its real id. A merge
that is left out has never been the first one possible, so the ids are those of the whole vocabulary; the script checks it.
"""

import argparse
import base64
import importlib.util
import json
import pathlib
import re
import shutil
import tempfile

import torch
from diffusers import Flux2KleinPipeline, Flux2Pipeline
from diffusers.pipelines.flux2.pipeline_flux2 import SYSTEM_MESSAGE, format_input
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PixtralProcessor
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.integrations.mistral.tokenizer import MistralConverter
from transformers.utils import logging

from text_prompts import PROMPTS

FOLDER = pathlib.Path(__file__).parent.parent / "__test__" / "fixtures" / "text"
TOKENS = 512
logging.set_verbosity_error()
BYTE = bytes_to_unicode()

# Qwen3's, from id 151643 on; the first fourteen are special, the others belong to the text.
QWEN_ADDED = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> "
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> "
    "<tool_response> </tool_response> <think> </think>"
).split()
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Ids that transformers' `test_processing_mistral3.py` has for Mistral Small 3.1.
KNOWN = "USER: [IMG]\nWhat's the content of the image? ASSISTANT:"
KNOWN_IDS = "1 21510 1058 1032 10 1010 7493 1681 1278 4701 1307 1278 3937 1063 1349 4290 16002 41150 1058"
# What tokenizer.json of Mistral Small 3.1 has in place of Tekken's own pattern; transformers calls it incorrect.
OLD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def package_file(package, *parts):
    """A file of an installed package, which is not imported."""
    return pathlib.Path(importlib.util.find_spec(package).submodule_search_locations[0]).joinpath(*parts)


def printable(token):
    return "".join(BYTE[b] for b in token)


def added(token, index, special):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    return {"id": index, "content": token, **flags}


def byte_level(**flags):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False, **flags}


def tokenizer_json(vocab, merges, added_tokens, pattern, **parts):
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": parts["affix"],
        "end_of_word_suffix": parts["affix"],
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": parts["ignore_merges"],
        "vocab": vocab,
        "merges": [list(merge) for merge in merges],
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens,
        "normalizer": parts["normalizer"],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level()]},
        "post_processor": parts["post_processor"],
        "decoder": byte_level(),
        "model": model,
    }


def qwen_merge(token, ranks):
    """The two tokens that the last merge on the way to `token` joined."""
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        pairs = [ranks.get(a + b, len(ranks)) for a, b in zip(parts, parts[1:])]
        i = pairs.index(min(pairs))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def klein():
    """Qwen3's tokenizer folder, as Qwen/Qwen3-4B and FLUX.2 klein have it."""
    ranks = {}
    for line in package_file("dashscope", "resources", "qwen.tiktoken").read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    merges = [qwen_merge(token, ranks) for token in ranks if len(token) > 1]
    added_tokens = [added(token, len(ranks) + i, i < 14) for i, token in enumerate(QWEN_ADDED)]
    tokenizer = tokenizer_json(
        {printable(token): rank for token, rank in ranks.items()},
        [tuple(map(printable, merge)) for merge in merges],
        added_tokens,
        QWEN_PATTERN,
        normalizer={"type": "NFC"},
        post_processor=byte_level(),
        affix="",
        ignore_merges=False,
    )
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added_tokens},
        "additional_special_tokens": QWEN_ADDED[1:14],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    return tokenizer, config


def dev():
    """Mistral Small 3.1's tokenizer folder, as FLUX.2 dev has it, with Tekken's own pattern."""
    converter = MistralConverter(str(package_file("mistral_common", "data", "tekken_240911.json")))
    special = [str(token) for token in converter.additional_special_tokens]
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    first, second = ({"Sequence": {"id": id, "type_id": type}} for id, type in (("A", 0), ("B", 1)))
    tokenizer = tokenizer_json(
        converter._precomputed_vocab,
        converter._precomputed_merges,
        [added(token, i, True) for i, token in enumerate(special)],
        converter.pattern,
        normalizer=None,
        post_processor={
            "type": "TemplateProcessing",
            "single": [begin, first],
            "pair": [begin, first, {"SpecialToken": {"id": "<s>", "type_id": 1}}, second],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        affix=None,
        ignore_merges=True,
    )
    ids = Tokenizer.from_str(json.dumps(tokenizer)).encode(KNOWN).ids
    assert ids == list(map(int, KNOWN_IDS.split())), "not the tokenizer of Mistral Small 3.1"
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "legacy": True,
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": "<pad>",
        "processor_class": "PixtralProcessor",
        "tokenizer_class": "LlamaTokenizerFast",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }
    return tokenizer, config


def write(folder, tokenizer, config, template):
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    if template.resolve() != (folder / "chat_template.jinja").resolve():
        shutil.copy(template, folder / "chat_template.jinja")


class Ids(Exception):
    """What a pipeline was about to encode."""


def encoder():
    """A text encoder that hands back what it is given."""

    def forward(input_ids, attention_mask, **_):
        raise Ids(input_ids, attention_mask)

    module = torch.nn.Module()
    module.dtype, module.device, module.forward = torch.float32, torch.device("cpu"), forward
    return module


def ids_of(prompt_embeds, tokenizer, prompt, pad_id, side):
    """Ids without padding; checks that padding and mask are what they are taken for."""
    try:
        prompt_embeds(encoder(), tokenizer, prompt)
    except Ids as caught:
        ids, mask = (tensor[0].tolist() for tensor in caught.args)
    assert len(ids) == len(mask) == TOKENS
    count = sum(mask)
    padding = TOKENS - count
    pads, ones = [pad_id] * padding, [1] * count
    real = ids[:count] if side == "right" else ids[padding:]
    assert (ids, mask) == ((real + pads, ones + [0] * padding) if side == "right" else (pads + real, [0] * padding + ones))
    return real


def klein_ids(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.padding_side == "right", tokenizer.padding_side
    of = Flux2KleinPipeline._get_qwen3_prompt_embeds
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        for prompt in PROMPTS
    ]
    return texts, [ids_of(of, tokenizer, prompt, tokenizer.pad_token_id, "right") for prompt in PROMPTS]


def dev_ids(folder):
    with tempfile.TemporaryDirectory() as whole:
        shutil.copytree(folder, whole, dirs_exist_ok=True)
        image = {"image_processor_type": "PixtralImageProcessor", "patch_size": 14, "size": {"longest_edge": 1540}}
        processor = {"image_token": "[IMG]", "patch_size": 14, "processor_class": "PixtralProcessor", "spatial_merge_size": 2}
        pathlib.Path(whole, "preprocessor_config.json").write_text(json.dumps(image))
        pathlib.Path(whole, "processor_config.json").write_text(json.dumps(processor))
        processor = PixtralProcessor.from_pretrained(whole)
    print("dev:", type(processor.tokenizer).__name__, "pads on the", processor.tokenizer.padding_side)
    # The class that tokenizer_config.json names pads on the left unless told otherwise. transformers 5 takes its general
    # class in its place, because the vocabulary is no Llama's, and so loses the default.
    processor.tokenizer.padding_side = "left"
    conversations = format_input(PROMPTS, SYSTEM_MESSAGE)
    texts = [processor.apply_chat_template(c, add_generation_prompt=False, tokenize=False) for c in conversations]
    of = Flux2Pipeline._get_mistral_3_small_prompt_embeds
    return texts, [ids_of(of, processor, prompt, processor.tokenizer.pad_token_id, "left") for prompt in PROMPTS]


def touched(full, texts):
    """Tokens that the texts come to, and all on the way to them."""
    tokenizer = Tokenizer.from_str(json.dumps(full))
    specials = "|".join(re.escape(t["content"]) for t in sorted(full["added_tokens"], key=lambda t: -len(t["content"])))
    ranks = {tuple(merge): rank for rank, merge in enumerate(full["model"]["merges"])}
    pieces = set()
    for text in texts:
        for part in re.split(specials, text):
            if tokenizer.normalizer:
                part = tokenizer.normalizer.normalize_str(part)
            pieces.update(piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(part))
    kept = set()
    for piece in pieces:
        if full["model"]["ignore_merges"] and piece in full["model"]["vocab"]:
            kept.add(piece)
            continue
        parts = list(piece)
        kept.update(parts)
        while pairs := [(ranks[pair], i) for i, pair in enumerate(zip(parts, parts[1:])) if pair in ranks]:
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
            kept.add(parts[i])
    return kept


def with_pattern(full, pattern):
    full = json.loads(json.dumps(full))
    full["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
    return full


def reduced(full, kept):
    """`full` with the tokens that are kept. tokenizer.json numbers added tokens after the vocabulary unless that has
    them, so it has."""
    added_ids = {token["content"]: token["id"] for token in full["added_tokens"]}
    kept = kept | set(BYTE.values())
    vocab = {token: i for token, i in full["model"]["vocab"].items() if token in kept or token in added_ids}
    vocab |= added_ids
    merges = [m for m in full["model"]["merges"] if m[0] in kept and m[1] in kept and m[0] + m[1] in kept]
    return {**full, "model": {**full["model"], "vocab": vocab, "merges": merges}}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", type=pathlib.Path, default=None, help="where the whole tokenizer folders go")
    full_folder = parser.parse_args().full or pathlib.Path(tempfile.mkdtemp())
    for name, build, ids_of_folder, patterns in [
        ("klein", klein, klein_ids, {"ids": QWEN_PATTERN}),
        ("dev", dev, dev_ids, {"ids": None, "ids_with_old_pattern": OLD_PATTERN}),
    ]:
        full, config = build()
        template = FOLDER / name / "chat_template.jinja"
        kept, expected = set(), {}
        for key, pattern in patterns.items():
            variant = with_pattern(full, pattern) if pattern else full
            write(full_folder / name, variant, config, template)
            texts, expected[key] = ids_of_folder(full_folder / name)
            kept |= touched(variant, texts)
        small = reduced(full, kept)
        for key, pattern in patterns.items():
            variant = with_pattern(small, pattern) if pattern else small
            write(FOLDER / name, variant, config, template)
            assert ids_of_folder(FOLDER / name) == (texts, expected[key]), f"the reduced vocabulary gives other {key}"
        write(FOLDER / name, small, config, template)
        write(full_folder / name, full, config, template)
        changed = sum(a != b for a, b in zip(*expected.values())) if len(expected) == 2 else 0
        cases = [
            {"prompt": prompt, "text": text, **{key: ids[i] for key, ids in expected.items()}}
            for i, (prompt, text) in enumerate(zip(PROMPTS, texts))
        ]
        for case in cases:
            if case.get("ids_with_old_pattern") == case["ids"]:
                del case["ids_with_old_pattern"]
        lines = ",\n".join(json.dumps(case) for case in cases)
        old = json.dumps(patterns.get("ids_with_old_pattern"))
        (FOLDER / f"{name}.json").write_text(f'{{"old_pattern": {old}, "prompts": [\n{lines}\n]}}\n')
        model = small["model"]
        counts = f"{len(PROMPTS)} prompts, {len(model['vocab'])} tokens, {len(model['merges'])} merges"
        print(f"{name}: {counts}, {changed} prompts differ with the old pattern")


if __name__ == "__main__":
    main()
