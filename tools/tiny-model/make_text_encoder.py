#!/usr/bin/env python3
"""Make the tokenizer and the text encoder of models/flux2-tiny: a 28-layer, 64-wide Qwen3 that knows the emoji's names.

    make_text_encoder.py --images noto-all [DIR ...] --prefer noto-train --out models/flux2-tiny --minutes 7

Writes OUT/tokenizer and OUT/text_encoder (bfloat16). `--images` are folders of NNNN.png + NNNN.txt (emoji_dataset.py); batches draw
half of their images from `--prefer`. `--minutes 0` writes the untrained encoder.

FLUX.2 klein reads hidden states 9, 18 and 27 of all rows, padding included, and its transformer puts no norm before `context_embedder`.
So the training looks at just these: it pools the three taps over all 32 rows and asks of the pooled vector (a) which image of the batch
belongs to the caption (contrastive, against a small conv net) and (b) how that image looks at 8x8 pixels. A penalty holds every row
of every tap at root mean square 1.

Needs (PyPI): torch transformers tokenizers pillow numpy.
"""
import argparse, json, math, pathlib, time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

TAPS, ROWS, HIDDEN = (9, 18, 27), 32, 64
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
# Qwen3's template as FLUX.2 klein uses it: one user turn, generation prompt, an empty thought when thinking is off.
TEMPLATE = ("{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{%- endfor %}"
            "{%- if add_generation_prompt %}<|im_start|>assistant\n{%- if enable_thinking is defined and enable_thinking is false %}"
            "<think>\n\n</think>\n\n{%- endif %}{%- endif %}")


def make_tokenizer(captions, preferred):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    # BPE merges what is frequent. Words of the training names and of the template shall be single tokens, also at the start of a text.
    words = sorted({w for c in preferred for w in c.split()})
    corpus = captions + preferred * 20 + words * 20 + ["user\n", "assistant\n", "\n\n"] * 1000
    corpus += ["a photo of the drawing, in style with and on under two three small big emoji picture icon"] * 20
    tok.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=1536, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=SPECIAL, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=tok, pad_token="<|endoftext|>", eos_token="<|im_end|>", padding_side="right",
                                   chat_template=TEMPLATE, model_max_length=ROWS)


def make_encoder(tokenizer):
    model = Qwen3ForCausalLM(Qwen3Config(
        vocab_size=1536, hidden_size=HIDDEN, intermediate_size=48, num_hidden_layers=28, num_attention_heads=2, num_key_value_heads=1,
        head_dim=16, max_position_embeddings=512, rope_theta=10000.0, tie_word_embeddings=True, attn_implementation="sdpa",
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("embed_tokens.weight"):
                p.normal_(0, 0.7)
            elif p.ndim == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                p.normal_(0, (0.3 if residual else 1.0) / math.sqrt(p.shape[1]))
    return model


def tokenize(tokenizer, captions):
    """[N, 32] ids and mask, exactly as Flux2KleinPipeline makes them with max_sequence_length=32."""
    texts = [tokenizer.apply_chat_template([{"role": "user", "content": c}], tokenize=False, add_generation_prompt=True, enable_thinking=False)
             for c in captions]
    t = tokenizer(texts, return_tensors="pt", padding="max_length", truncation=True, max_length=ROWS)
    return t["input_ids"], t["attention_mask"]


def taps(model, ids, mask):
    """[N, 32, 192], differentiable. The layers past the last tap and the LM head are not run by the loss but are by `model`."""
    out = model.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
    return torch.cat([out.hidden_states[k] for k in TAPS], dim=-1)


class ImageNet(nn.Module):
    def __init__(self, dim):
        super().__init__()
        layers, c = [], 3
        for width in (24, 48, 96, 128):
            layers += [nn.Conv2d(c, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
            c = width
        self.body, self.head = nn.Sequential(*layers), nn.Linear(128 * 4, dim)

    def forward(self, x):
        return self.head(self.body(F.avg_pool2d(x, 2)).flatten(1))


class TextHead(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(len(TAPS) * HIDDEN, 256), nn.SiLU())
        self.embed, self.thumbnail = nn.Linear(256, dim), nn.Linear(256, 3 * 8 * 8)

    def forward(self, states):
        h = self.body(states.mean(dim=1))
        return self.embed(h), self.thumbnail(h)


def load(folder):
    files = sorted(pathlib.Path(folder).glob("*.png"))
    x = torch.from_numpy(np.stack([np.asarray(Image.open(f).convert("RGB")).transpose(2, 0, 1) for f in files]))
    return x, [f.with_suffix(".txt").read_text().strip() for f in files]


def train(model, tokenizer, sets, minutes, batch, lr):
    image_net, head, scale = ImageNet(64), TextHead(64), nn.Parameter(torch.tensor(math.log(10.0)))
    sets = [(x, *tokenize(tokenizer, c), c) for x, c in sets]
    extra = [*image_net.parameters(), *head.parameters(), scale]
    opt = torch.optim.AdamW([dict(params=model.parameters()), dict(params=extra)], lr=lr, betas=(0.9, 0.98), weight_decay=1e-3)
    start, step, shown = time.monotonic(), 0, 0.0
    while (spent := time.monotonic() - start) < minutes * 60:
        for group in opt.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * spent / (minutes * 60))))
        parts = []
        for (x, ids, mask, _), n in zip(sets, (batch // 2, batch - batch // 2)):
            i = torch.randperm(len(x))[:n]
            parts.append((x[i], ids[i], mask[i]))
        x, ids, mask = (torch.cat(p) for p in zip(*parts))
        x = x.float() / 127.5 - 1
        # Padding rows all see the same words: two of them teach what 15 would, at half the time.
        rows = int(mask.sum(1).max()) + 2
        ids, mask = ids[:, :rows], mask[:, :rows]
        states = taps(model, ids, mask)
        text, thumb = head(states)
        logits = F.normalize(text, dim=-1) @ F.normalize(image_net(x), dim=-1).T * scale.exp().clamp(max=50)
        # The same caption may come twice; both images are then right answers.
        same = (ids[:, None] == ids[None]).all(-1).float()
        same = same / same.sum(1, keepdim=True)
        contrast = 0.5 * (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same))
        look = F.mse_loss(thumb, F.adaptive_avg_pool2d(x, 8).flatten(1))
        rms = states.unflatten(-1, (len(TAPS), HIDDEN)).square().mean(-1).sqrt()
        loss = contrast + 2 * look + (rms - 1).square().mean()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*model.parameters(), *extra], 1.0)
        opt.step()
        step += 1
        if spent - shown >= 15:
            shown = spent
            hit = (same.gather(1, logits.argmax(1, keepdim=True)) > 0).float().mean().item()
            print(f"step {step} t {spent:.0f}s contrast {contrast.item():.3f} hit {hit:.2f} thumbnail mse {look.item():.4f} rms {rms.mean().item():.2f}", flush=True)
    return step


def write_plain_names(out):
    """transformers 5 nests `rope_theta` and renames the tokenizer class; readers of published FLUX.2 folders look for the older names too."""
    for file, extra in (("text_encoder/config.json", {"rope_theta": 10000.0}), ("tokenizer/tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})):
        config = json.loads((out / file).read_text()) | extra
        (out / file).write_text(json.dumps(config, indent=2) + "\n")


@torch.no_grad()
def report(model, tokenizer, captions):
    s = torch.cat([taps(model, *tokenize(tokenizer, captions[i:i + 64])) for i in range(0, len(captions), 64)])
    for k, tap in enumerate(s.split(HIDDEN, dim=-1)):
        print(f"tap {TAPS[k]}: std {tap.std().item():.3f}, max |x| {tap.abs().max().item():.1f}, std between captions of the last row {tap[:, -1].std(0).mean().item():.3f}")
    for name, f in (("all rows", s.flatten(1)), ("mean row", s.mean(1)), ("last row (padding)", s[:, -1])):
        f = f / f.norm(dim=1, keepdim=True)
        d = (2 - 2 * f @ f.T).clamp_min(0).sqrt() + 9 * torch.eye(len(f))
        nearest, j = d.min(1)
        worst = nearest.argmin()
        print(f"{name}: relative distance to the nearest other caption: median {nearest.median():.3f}, least {nearest.min():.3f} "
              f"({captions[worst]!r} / {captions[j[worst]]!r})")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--images", type=pathlib.Path, nargs="+", required=True)
    ap.add_argument("--prefer", type=pathlib.Path, required=True)
    ap.add_argument("--out", type=pathlib.Path, required=True)
    ap.add_argument("--minutes", type=float, default=7.0)
    ap.add_argument("--batch", type=int, default=32)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    loaded = [load(f) for f in a.images]
    every = (torch.cat([x for x, _ in loaded]), [c for _, cs in loaded for c in cs])
    prefer = load(a.prefer)
    tokenizer = make_tokenizer(sorted(set(every[1])), prefer[1])
    model = make_encoder(tokenizer)
    whole = sum(len(tokenizer.tokenize(c)) == len(c.split()) for c in prefer[1])
    longest = max(tokenize(tokenizer, every[1])[1].sum(1))
    print(f"{len(tokenizer)} tokens; {whole} of {len(prefer[1])} preferred captions are one token a word; longest text {longest} of {ROWS} rows; "
          f"{sum(p.numel() for p in model.parameters()) / 1e6:.3f} M parameters", flush=True)
    steps = train(model, tokenizer, (every, prefer), a.minutes, a.batch, a.lr)
    model = model.eval().to(torch.bfloat16)
    model.save_pretrained(a.out / "text_encoder")
    tokenizer.save_pretrained(a.out / "tokenizer")
    write_plain_names(a.out)
    print(f"saved after {steps} steps; of the saved weights:")
    report(Qwen3ForCausalLM.from_pretrained(a.out / "text_encoder", dtype=torch.float32).eval(), tokenizer, prefer[1])


if __name__ == "__main__":
    main()
