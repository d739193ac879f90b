"""VAE and text encoder in diffusers and transformers: makes them with random weights in DIR when they are not there yet,
and prints seconds as JSON.

`encode.mjs` starts it. See docs/performance.md for the environment.
"""

import json
import pathlib
import sys
import time

import torch
from diffusers import AutoencoderKLFlux2
from transformers import Qwen3Config, Qwen3Model

folder, pixels, tokens, runs = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:5])
torch.manual_seed(1)
if not (folder / "vae").exists():
    AutoencoderKLFlux2().eval().save_pretrained(folder / "vae")
    # A third of klein-4B's encoder: a width of 2560 at 36 layers would take the bench minutes.
    config = Qwen3Config(
        hidden_size=1024, num_hidden_layers=9, num_attention_heads=8, num_key_value_heads=2, head_dim=128,
        intermediate_size=3072, vocab_size=4096,
    )
    Qwen3Model(config).eval().save_pretrained(folder / "text")
vae = AutoencoderKLFlux2.from_pretrained(folder / "vae")
text = Qwen3Model.from_pretrained(folder / "text", dtype=torch.float32)
# The encoder stops at the last hidden state that is used; it needs to be told.
text.layers = text.layers[:8]


def seconds(f):
    with torch.no_grad():
        f()
        out = []
        for _ in range(runs):
            started = time.perf_counter()
            f()
            out.append(time.perf_counter() - started)
    return sorted(out)[runs // 2]


image = torch.rand(1, 3, pixels, pixels) * 2 - 1
latent = torch.randn(1, 32, pixels // 8, pixels // 8)
ids = torch.arange(tokens)[None] % 4096
mask = torch.ones(1, tokens, dtype=torch.int64)
print(
    json.dumps(
        {
            "vae encode": seconds(lambda: vae.encode(image)),
            "vae decode": seconds(lambda: vae.decode(latent)),
            "text encode": seconds(lambda: text(input_ids=ids, attention_mask=mask, output_hidden_states=True)),
        }
    )
)
