#!/usr/bin/env python3
"""Put a tiny FLUX.2 klein pipeline together: model_index.json, scheduler and a transformer, beside the parts that are in OUT already.

    make_pipeline.py OUT [--transformer init|config] [--dtype float32|bfloat16] [--seed N]

OUT must hold text_encoder/ and tokenizer/ (make_text_encoder.py) and vae/ (train_vae.py). `config` writes transformer/config.json only;
`init` also writes random weights to start full training from: PyTorch's default init, with the modulations, `norm_out` and
`proj_out` at zero so that training starts from the identity of every block.

Needs (PyPI): torch diffusers transformers.
"""
import argparse, json, pathlib

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel

INDEX = {
    "_class_name": "Flux2KleinPipeline", "_diffusers_version": diffusers.__version__, "is_distilled": False,
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"], "text_encoder": ["transformers", "Qwen3ForCausalLM"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"], "transformer": ["diffusers", "Flux2Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLFlux2"],
}


def make_transformer():
    model = Flux2Transformer2DModel(
        patch_size=1, in_channels=128, num_layers=2, num_single_layers=3, attention_head_dim=64, num_attention_heads=4, joint_attention_dim=192,
        timestep_guidance_channels=256, mlp_ratio=3.0, axes_dims_rope=(16, 16, 16, 16), rope_theta=2000, eps=1e-6, guidance_embeds=False)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "modulation" in name or name in ("norm_out.linear.weight", "proj_out.weight"):
                p.zero_()
    # adaLN-zero as in DiT: a zero gate stops the gradient to its branch for a step, not the gradient to the gate.
    return model


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out", type=pathlib.Path)
    ap.add_argument("--transformer", choices=["init", "config"], default="init")
    ap.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.manual_seed(a.seed)
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")
    FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256,
        max_image_seq_len=4096, time_shift_type="exponential").save_pretrained(a.out / "scheduler")
    model = make_transformer()
    if a.transformer == "config":
        model.save_config(a.out / "transformer")
    else:
        model.to(getattr(torch, a.dtype)).save_pretrained(a.out / "transformer")
    total = sum(f.stat().st_size for f in a.out.rglob("*") if f.is_file())
    print(f"transformer: {sum(p.numel() for p in model.parameters()) / 1e6:.3f} M parameters; {a.out}: {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
