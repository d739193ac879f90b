#!/usr/bin/env python3
"""Train the VAE of models/flux2-tiny: a small diffusers AutoencoderKLFlux2 on emoji images.

    train_vae.py --images DIR [DIR ...] --out models/flux2-tiny/vae --state vae-state.pt --minutes 20

Every image is composited on white and scaled to 64x64. The loss is L1 + MSE + the same on image gradients (flat drawings live by
their edges) + a small KL term; the weights that are saved are an exponential moving average. After training, `bn.running_mean` and
`bn.running_var` are set to the statistics of the 2x2-patchified posterior modes, as FLUX.2 normalises its latents with them.
`--state` is written every two minutes; with the same arguments the script continues from it, and with `--minutes 0` it only writes
and measures. PSNR is measured on the file that was written (bfloat16), over every 10th image; pass `--holdout` to keep those out of training.

Needs (PyPI): torch diffusers pillow numpy.
"""
import argparse, math, pathlib, re, time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLFlux2
from PIL import Image

# Emoji file names spell out code points; 1f3fc..1f3ff are all skin tones but the first, near copies of the same drawing.
SKIN_TONE_COPIES = re.compile(r"1f3f[c-f]")


def load_images(folders, size):
    """uint8 [N, 3, size, size], on white, in sorted order."""
    images = []
    for folder in folders:
        for path in sorted(pathlib.Path(folder).glob("*.png")):
            if SKIN_TONE_COPIES.search(path.stem):
                continue
            rgba = Image.open(path).convert("RGBA")
            flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
            if flat.size != (size, size):
                flat = flat.resize((size, size), Image.LANCZOS)
            images.append(np.asarray(flat).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(images))


def to_model_range(images):
    return images.float() / 127.5 - 1.0


def build(channels):
    return AutoencoderKLFlux2(
        block_out_channels=tuple(channels), down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels), layers_per_block=1, norm_num_groups=8, latent_channels=32, sample_size=64)


def reconstruction_loss(x, y):
    d = y - x
    dx, dy = d[..., :, 1:] - d[..., :, :-1], d[..., 1:, :] - d[..., :-1, :]
    return d.abs().mean() + d.square().mean() + 0.5 * (dx.abs().mean() + dy.abs().mean())


@torch.no_grad()
def patchified_modes(vae, images):
    """[N, 128, H/16, W/16]: posterior modes, 2x2 pixels of latent folded into channels (index c*4 + dy*2 + dx)."""
    out = []
    for batch in images.split(64):
        z = vae.encode(to_model_range(batch)).latent_dist.mode()
        n, c, h, w = z.shape
        out.append(z.view(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, c * 4, h // 2, w // 2))
    return torch.cat(out)


@torch.no_grad()
def psnr(vae, images):
    """Mean over images of the PSNR in dB of decode(mode(encode(x))), peak 1, on 8-bit output."""
    values = []
    for batch in images.split(64):
        y = vae.decode(vae.encode(to_model_range(batch)).latent_dist.mode()).sample
        y = ((y.clamp(-1, 1) + 1) * 127.5).round() / 255
        mse = (y - batch.float() / 255).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
        values.append(-10 * mse.log10())
    return torch.cat(values).mean().item()


def save(vae, ema, images, out):
    final = build(vae.config.block_out_channels)
    final.load_state_dict(ema)
    final.eval()
    p = patchified_modes(final, images)
    final.bn.running_mean.copy_(p.mean(dim=(0, 2, 3)))
    final.bn.running_var.copy_(p.var(dim=(0, 2, 3)))
    final.to(torch.bfloat16).save_pretrained(out)
    return p


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--images", type=pathlib.Path, nargs="+", required=True)
    ap.add_argument("--out", type=pathlib.Path, required=True)
    ap.add_argument("--state", type=pathlib.Path, required=True)
    ap.add_argument("--minutes", type=float, default=20.0, help="wall time of the whole training, over all resumes")
    ap.add_argument("--channels", type=int, nargs=4, default=[24, 32, 72, 96])
    ap.add_argument("--batch", type=int, default=12)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--kl", type=float, default=1e-4, help="weight of the KL term, per latent element")
    ap.add_argument("--holdout", action="store_true")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)

    images = load_images(a.images, 64)
    probe = images[::10]
    train = images[torch.arange(len(images)) % 10 != 0] if a.holdout else images
    vae = build(a.channels).to(memory_format=torch.channels_last)
    print(f"{len(train)} images, {sum(p.numel() for p in vae.parameters()) / 1e6:.3f} M parameters", flush=True)
    opt = torch.optim.AdamW(vae.parameters(), lr=a.lr, betas=(0.9, 0.99), weight_decay=1e-3)
    ema = {k: v.clone() for k, v in vae.state_dict().items()}
    step, spent = 0, 0.0
    if a.state.exists():
        s = torch.load(a.state)
        vae.load_state_dict(s["model"]), opt.load_state_dict(s["opt"])
        ema, step, spent = s["ema"], s["step"], s["spent"]
        torch.manual_seed(a.seed + step)

    def checkpoint():
        tmp = a.state.with_suffix(".tmp")
        torch.save(dict(model=vae.state_dict(), opt=opt.state_dict(), ema=ema, step=step, spent=spent), tmp)
        tmp.replace(a.state)

    last, saved, shown = time.monotonic(), spent, spent
    while spent < a.minutes * 60:
        progress = spent / (a.minutes * 60)
        for group in opt.param_groups:
            group["lr"] = a.lr * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        x = to_model_range(train[torch.randint(len(train), (a.batch,))]).contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        loss = reconstruction_loss(x, y) + a.kl * kl
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        opt.step()
        decay = min(0.995, (step + 1) / (step + 10))
        with torch.no_grad():
            for k, v in vae.state_dict().items():
                ema[k].lerp_(v, 1 - decay) if v.is_floating_point() else ema[k].copy_(v)
        step += 1
        now = time.monotonic()
        spent, last = spent + now - last, now
        if spent - shown >= 15:
            shown = spent
            mse = ((y.detach().clamp(-1, 1) - x) / 2).square().mean(dim=(1, 2, 3))
            print(f"step {step} t {spent:.0f}s loss {loss.item():.4f} kl {kl.item():.2f} batch psnr {(-10 * mse.log10()).mean().item():.2f} "
                  f"posterior std {posterior.std.mean().item():.3f} mean rms {posterior.mean.square().mean().sqrt().item():.3f}", flush=True)
        if spent - saved >= 120:
            saved = spent
            checkpoint()
    checkpoint()
    p = save(vae, ema, images, a.out)
    written = AutoencoderKLFlux2.from_pretrained(a.out, dtype=torch.float32).eval()
    z = (p - written.bn.running_mean.view(1, -1, 1, 1)) / (written.bn.running_var.view(1, -1, 1, 1) + 1e-4).sqrt()
    print(f"saved after {step} steps, {spent / 60:.1f} min; PSNR of the saved file {psnr(written, probe):.2f} dB on {len(probe)} images; "
          f"latents: raw std {p.std().item():.3f}, normalised mean {z.mean().item():.3f} std {z.std().item():.3f} max |z| {z.abs().max().item():.1f}", flush=True)


if __name__ == "__main__":
    main()
