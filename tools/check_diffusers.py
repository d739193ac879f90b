#!/usr/bin/env python3
"""Check a flowtune model folder, and optionally a LoRA that flowtune wrote, against diffusers.

    flowtune sample --model DIR [--lora DIR] --prompt TEXT --out DIR --dump dump.safetensors
    check_diffusers.py DIR [--lora DIR] [--reference a.png ..] --dump dump.safetensors
    check_diffusers.py DIR [--lora DIR] --prompt "red heart" --out image.png        # only load and sample

With `--dump` it compares, all in float32 on the CPU:
  1. the embeddings that diffusers makes of the dump's prompt, and of "", with the dump's `text_embeddings` and
     `negative_text_embeddings` (bound: 1e-4 of the largest value),
  2. with reference images, the latents that diffusers makes of them with the dump's `reference_latents.0`, .. (bound: 1e-4;
     none for images of more than 1024² pixels, which two Lanczos filters scale down),
  3. the image that diffusers samples from the dump's `initial_latents` and embeddings with the dump's `image` (bound: 2/255),
and, with `--lora`, says how far the LoRA moved the image and at which scale alpha/rank diffusers applies it.
Exit status 1 when a bound is passed, or when a LoRA key or a module found no partner.

The dump holds `initial_latents [1, 128, H/16, W/16]`, `text_embeddings [1, S, D]`, `negative_text_embeddings [1, S, D]` (only when
guided), `reference_latents.N [1, 128, h, w]` of reference images, `image [1, 3, H, W]` in 0..1, and in its header `steps`, `guidance_scale`, `height`, `width`, `prompt`, as JSON.
S is the number of text rows: min(512, the tokenizer's model_max_length). diffusers has to be told, as its own default is always 512.

Needs (PyPI): torch diffusers transformers peft safetensors pillow.
"""
import argparse, json, logging, pathlib, sys

import torch
from PIL import Image
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open

EMBEDDING_BOUND, IMAGE_BOUND = 1e-4, 2 / 255


class Report:
    def __init__(self):
        self.failed = False

    def line(self, what, value, bound):
        ok = value <= bound  # false for NaN too
        self.failed |= not ok
        print(f"{'ok  ' if ok else 'FAIL'} {what}: {value:.3e} (bound {bound:.3e})")

    def fail(self, what):
        self.failed = True
        print(f"FAIL {what}")


def read_dump(path):
    """Tensors in float32 and the header's facts, whether each is a JSON value of its own or all are one JSON object."""
    with safe_open(path, "pt") as f:
        tensors = {k: f.get_tensor(k).float() for k in f.keys()}
        header = dict(f.metadata() or {})
    facts = {}
    for key, text in header.items():
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        # A prompt such as "12" or "null" must stay text when it stands on its own.
        facts.update(value if isinstance(value, dict) else {key: text if key == "prompt" else value})
    missing = [k for k in ("steps", "guidance_scale", "height", "width", "prompt") if k not in facts]
    missing += [k for k in ("initial_latents", "text_embeddings", "image") if k not in tensors]
    if missing:
        sys.exit(f"{path}: lacks {', '.join(missing)}")
    return tensors, facts


def lora_file(path):
    path = pathlib.Path(path)
    return path if path.is_file() else path / "pytorch_lora_weights.safetensors"


def load_lora(pipe, path, report):
    """Load as users do, then make sure that every key of the file found its module and no module went without."""
    path = lora_file(path)
    with safe_open(path, "pt") as f:
        keys, raw = set(f.keys()), (f.metadata() or {}).get("lora_adapter_metadata")
        ranks = {k.removesuffix(".lora_A.weight").removeprefix("transformer."): f.get_slice(k).get_shape()[0] for k in keys if k.endswith(".lora_A.weight")}
    pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="flowtune")
    layers = {n: m for n, m in pipe.transformer.named_modules() if isinstance(m, BaseTunerLayer)}
    if not any(k.startswith("transformer.") for k in keys):
        # Names of another program, which diffusers translates: the image says whether each was found.
        print(f"     LoRA: {len(keys)} tensors under another program's names, {len(layers)} modules")
        return
    named = {k.removeprefix("transformer.").rsplit(".lora_", 1)[0] for k in keys}
    for name in sorted(named ^ set(layers)):
        report.fail(f"LoRA: {name} is only in {'the file' if name in named else 'the model'}")
    meta = {k.removeprefix("transformer."): v for k, v in json.loads(raw).items()} if raw else {}
    alpha_of = meta.get("alpha_pattern", {})
    scales = {}
    for name, layer in layers.items():
        rank = ranks.get(name)
        if rank is None:
            continue
        # Without metadata diffusers takes alpha = rank, whatever was trained.
        alpha = alpha_of.get(name, meta.get("lora_alpha", rank))
        want, got = alpha / rank, layer.scaling["flowtune"]
        scales[got] = scales.get(got, 0) + 1
        if abs(want - got) > 1e-6 * max(1, abs(want)):
            report.fail(f"LoRA scale of {name}: diffusers applies {got}, the file says {want}")
    print(f"     LoRA: {len(layers)} modules, scale alpha/rank {scales}, metadata {'yes' if raw else 'no (scale 1)'}")


def sample(pipe, facts, images, latents, text, negative):
    guided = float(facts["guidance_scale"]) > 1 and not pipe.config.is_distilled
    return pipe(
        image=images or None, prompt_embeds=text, negative_prompt_embeds=negative if guided else None, latents=latents, height=int(facts["height"]), width=int(facts["width"]),
        num_inference_steps=int(facts["steps"]), guidance_scale=float(facts["guidance_scale"]), output_type="pt").images


def compare(report, what, ours, theirs, bound, relative):
    if ours.shape != theirs.shape:
        report.fail(f"{what}: shape {tuple(ours.shape)}, diffusers {tuple(theirs.shape)}")
        return
    worst = (ours - theirs).abs().max().item()
    report.line(what + (", largest difference / largest value" if relative else ", largest difference"), worst / (theirs.abs().max().item() if relative else 1), bound)


def check_references(pipe, images, x, report):
    """What the pipeline makes of the images, taken from its own call."""
    named = [x[f"reference_latents.{i}"] for i in range(len([k for k in x if k.startswith("reference_latents.")]))]
    if len(named) != len(images):
        report.fail(f"references: the dump has {len(named)}, --reference names {len(images)}")
        return
    if not images:
        return
    class Done(Exception):
        pass
    seen, encode = [], pipe._encode_vae_image
    def watched(image, generator):
        seen.append(encode(image=image, generator=generator))
        if len(seen) == len(images):
            raise Done
        return seen[-1]
    pipe._encode_vae_image = watched
    try:
        pipe(image=images, prompt_embeds=x["text_embeddings"], negative_prompt_embeds=x["text_embeddings"], num_inference_steps=1)
    except Done:
        pass
    finally:
        pipe._encode_vae_image = encode
    for i, (ours, theirs, image) in enumerate(zip(named, seen, images)):
        if image.width * image.height > 1024**2:
            print(f"     latents of reference {i}, scaled down: largest difference / largest value {((ours - theirs).abs().max() / theirs.abs().max()).item():.3e}")
            continue
        compare(report, f"latents of reference {i}", ours, theirs.detach(), EMBEDDING_BOUND, True)


def check_dump(pipe, a, report):
    x, facts = read_dump(a.dump)
    print(f"     {facts['prompt']!r}, {facts['width']}x{facts['height']}, {facts['steps']} steps, guidance {facts['guidance_scale']}, {x['text_embeddings'].shape[1]} text rows")
    rows = x["text_embeddings"].shape[1]
    limit = min(512, pipe.tokenizer.model_max_length)
    if rows != limit:
        report.fail(f"text rows: the dump has {rows}, the tokenizer's model_max_length asks for {limit}")
    text = pipe.encode_prompt(facts["prompt"], device="cpu", max_sequence_length=rows)[0]
    negative = pipe.encode_prompt("", device="cpu", max_sequence_length=rows)[0]
    compare(report, "text embeddings", x["text_embeddings"], text, EMBEDDING_BOUND, True)
    if "negative_text_embeddings" in x:
        compare(report, "negative text embeddings", x["negative_text_embeddings"], negative, EMBEDDING_BOUND, True)
    images = [Image.open(path).convert("RGB") for path in a.reference]
    check_references(pipe, images, x, report)
    given = (facts, images, x["initial_latents"], x["text_embeddings"], x.get("negative_text_embeddings", negative))
    plain = sample(pipe, *given) if a.lora else None
    if a.lora:
        load_lora(pipe, a.lora, report)
    image = sample(pipe, *given)
    if a.lora:
        print(f"     the LoRA moves the image by {(image - plain).abs().mean().item() * 255:.2f}/255 on average")
    compare(report, "image (0..1)", x["image"], image, IMAGE_BOUND, False)
    return image


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model", type=pathlib.Path)
    ap.add_argument("--lora", type=pathlib.Path, help="a folder with pytorch_lora_weights.safetensors, or such a file")
    ap.add_argument("--transformer", type=pathlib.Path, help="another transformer's folder, such as `flowtune merge` writes")
    ap.add_argument("--dump", type=pathlib.Path)
    ap.add_argument("--reference", type=pathlib.Path, nargs="+", default=[], help="with --dump: the images that it was made from")
    ap.add_argument("--prompt", default="red heart", help="without --dump")
    ap.add_argument("--steps", type=int, default=20, help="without --dump")
    ap.add_argument("--guidance-scale", type=float, default=4.0, help="without --dump")
    ap.add_argument("--seed", type=int, default=0, help="without --dump")
    ap.add_argument("--size", type=int, default=64, help="without --dump")
    ap.add_argument("--out", type=pathlib.Path, help="write diffusers' image here as PNG")
    a = ap.parse_args()
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    pipe = Flux2KleinPipeline.from_pretrained(a.model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    if a.transformer:
        pipe.transformer = Flux2Transformer2DModel.from_pretrained(a.transformer, torch_dtype=torch.float32)
    report = Report()
    if a.dump:
        image = check_dump(pipe, a, report)
    else:
        if a.lora:
            load_lora(pipe, a.lora, report)
        image = pipe(
            prompt=a.prompt, height=a.size, width=a.size, num_inference_steps=a.steps, guidance_scale=a.guidance_scale,
            generator=torch.Generator().manual_seed(a.seed), max_sequence_length=min(512, pipe.tokenizer.model_max_length), output_type="pt").images
        finite = bool(torch.isfinite(image).all())
        print(f"     sampled {a.prompt!r}: {tuple(image.shape)}, values {image.min().item():.3f}..{image.max().item():.3f}")
        if not finite:
            report.fail("the image has values that are not finite")
    if a.out:
        pipe.image_processor.numpy_to_pil(pipe.image_processor.pt_to_numpy(image))[0].save(a.out)
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
