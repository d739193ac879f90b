#!/usr/bin/env python3
"""Writes the parity cases of training and sampling with reference images: what diffusers' own transformer, peft and
PyTorch's autograd make of them, in float32 with random weights.

    python tools/edit_fixtures.py

`__test__/fixtures/parity/cases/train-edit`: batches of two whose samples have one and two references, or none and one, of
different sizes. diffusers takes as many references for every sample of a batch, so each sample is a forward of its own here.
`__test__/fixtures/parity/cases/train-edit-same`: the same two references' sizes for both samples, as one batch of two.
`__test__/fixtures/parity/edit`: an image of models/flux2-tiny and two reference images by Flux2KleinPipeline, guided.

Needs (PyPI): torch diffusers transformers peft safetensors pillow.
"""
import copy, json, pathlib

import numpy as np
import torch
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
from peft import LoraConfig
from PIL import Image
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).parent.parent
PARITY = ROOT / "__test__" / "fixtures" / "parity"
CHANNELS, DIM, TEXT, SIZE = 16, 24, 20, (3, 2)
TRANSFORMER = dict(
    num_layers=1, num_single_layers=1, attention_head_dim=12, num_attention_heads=2, joint_attention_dim=TEXT, in_channels=CHANNELS,
    timestep_guidance_channels=32, axes_dims_rope=(4, 4, 2, 2))
LORA = dict(rank=2, alpha=3, target_modules=[
    "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "linear_in", "linear_out",
    "to_qkv_mlp_proj", "single_transformer_blocks.*.attn.to_out"])
OPTIMIZER = dict(lr=0.01, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.05, max_grad_norm=0.5)
pack, latent_ids, image_ids = Flux2KleinPipeline._pack_latents, Flux2KleinPipeline._prepare_latent_ids, Flux2KleinPipeline._prepare_image_ids


def transformer(guidance_embeds):
    model = Flux2Transformer2DModel(**TRANSFORMER, guidance_embeds=guidance_embeds)
    with torch.no_grad():
        for parameter in model.parameters():
            # Wide enough that every gradient is far from zero.
            parameter.copy_(torch.ones_like(parameter) if parameter.ndim == 1 else torch.randn_like(parameter) * 1.2 / parameter.shape[1] ** 0.5)
    base = {name: value.clone() for name, value in model.state_dict().items()}
    blocks = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "transformer_blocks." in n]
    model.add_adapter(LoraConfig(r=LORA["rank"], lora_alpha=LORA["alpha"], target_modules=blocks))
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.normal_(0, 0.2)
    return model, base, {n.replace(".default", ""): p for n, p in trained.items()}


def predict(model, noisy, sigma, text, references, guidance):
    """As the pipeline's denoising loop: `references` is one list for all samples of the batch, or a list of lists with one per sample."""
    batch, _, h, w = noisy.shape
    hidden, ids = pack(noisy), latent_ids(noisy)
    if references:
        tokens = torch.cat([torch.cat([pack(r) for r in of_sample], dim=1) for of_sample in references])
        hidden = torch.cat([hidden, tokens], dim=1)
        ids = torch.cat([ids, image_ids(references[0]).repeat(batch, 1, 1)], dim=1)
    text_ids = torch.cartesian_prod(torch.arange(1), torch.arange(1), torch.arange(1), torch.arange(text.shape[1]))
    out = model(
        hidden_states=hidden, timestep=sigma, guidance=guidance, encoder_hidden_states=text, txt_ids=text_ids.expand(batch, -1, -1),
        img_ids=ids, return_dict=False)[0]
    return out[:, : h * w].permute(0, 2, 1).reshape(noisy.shape)


def predict_both(model, noisy, sigma, text, references, guidance, as_batch):
    if as_batch:
        return predict(model, noisy, sigma, text, references, guidance)
    one = [slice(s, s + 1) for s in range(2)]
    return torch.cat([
        predict(model, noisy[s], sigma[s], text[s], references[s] if references[s][0] else [], None if guidance is None else guidance[s])
        for s in one])


def turned_by_rounding(model, trained, loss):
    """1 - cos between a gradient and what it is when the frozen weights alone are rounded to bfloat16; the worst of all."""
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in rounded.parameters():
            if not parameter.requires_grad:
                parameter.copy_(parameter.bfloat16().float())
    exact = torch.autograd.grad(loss(model), list(trained.values()))
    other = torch.autograd.grad(loss(rounded), [p for p in rounded.parameters() if p.requires_grad])
    return max(1 - torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0).item() for a, b in zip(exact, other))


def train_case(name, seed, steps, guidance_embeds, as_batch):
    """`steps`: for each step and each of the two samples, the sizes (h, w) of its references."""
    torch.manual_seed(seed)
    model, base, trained = transformer(guidance_embeds)
    tensors = {f"weights.{n}": v for n, v in base.items()} | {f"weights.{n}": p.detach().clone() for n, p in trained.items()}
    o = OPTIMIZER
    optimizer = torch.optim.AdamW(
        trained.values(), lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"], weight_decay=o["weight_decay"])
    losses = []
    for i, sizes in enumerate(steps):
        latents, noise = torch.randn(2, CHANNELS, *SIZE), torch.randn(2, CHANNELS, *SIZE)
        sigma, text = torch.rand(2) * 0.8 + 0.1, torch.randn(2, 5, TEXT)
        references = [[torch.randn(1, CHANNELS, *size) for size in of_sample] for of_sample in sizes]
        level = sigma.view(-1, 1, 1, 1)
        noisy = (1 - level) * latents + level * noise
        guidance = torch.full((2,), 2.5) if guidance_embeds else None
        given = (noisy, sigma, text, references, guidance, as_batch)
        def loss_of(model):
            return torch.nn.functional.mse_loss(predict_both(model, *given), noise - latents)
        prediction = predict_both(model, *given)
        loss = torch.nn.functional.mse_loss(prediction, noise - latents)
        if i == 0:
            print(f"{name}: rounding the weights to bfloat16 turns a gradient by at most 1 - cos = {turned_by_rounding(model, trained, loss_of):.1e}")
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), o["max_grad_norm"])
        tensors |= {f"in.image_latents.{i}": latents, f"in.noise.{i}": noise, f"in.sigma.{i}": sigma, f"in.text_embeddings.{i}": text}
        tensors |= {f"in.references.{i}.{s}.{r}": x for s, of_sample in enumerate(references) for r, x in enumerate(of_sample)}
        if i == 0:
            tensors |= {"expect.prediction.0": prediction.detach(), "expect.grad_norm.0": norm}
            tensors |= {f"expect.grad.0.{n}": p.grad.clone() for n, p in trained.items()}
        optimizer.step()
        losses.append(loss.item())
    tensors["expect.loss"] = torch.tensor(losses)
    tensors |= {f"expect.final.{n}": p.detach().clone() for n, p in trained.items()}
    info = dict(
        kind="train", transformer=dict(TRANSFORMER, guidance_embeds=guidance_embeds), mode="lora", steps=len(steps), lora=LORA,
        pipeline=dict(flow_shift=3.0, loss_weighting="none", guidance_scale=2.5 if guidance_embeds else None),
        optimizer=dict(type="adamw", **OPTIMIZER))
    folder = PARITY / "cases" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "case.json").write_text(json.dumps(info, indent=1) + "\n")
    save_file({n: t.float().contiguous() for n, t in tensors.items()}, folder / "tensors.safetensors")


def picture(width, height, phase):
    """Smooth colours, so that a shift by one pixel shows and nothing else does."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / a + phase) * np.cos(y / b) for a, b in ((7, 11), (13, 5), (9, 17))]
    return Image.fromarray(((np.stack(waves, -1) + 1) * 127.5).round().astype(np.uint8))


def sample_case():
    folder = PARITY / "edit"
    folder.mkdir(parents=True, exist_ok=True)
    # Cut to 96×64 and 64×80.
    sizes = {"wide.png": (101, 70), "tall.png": (70, 95)}
    for phase, (name, size) in enumerate(sizes.items()):
        picture(*size, phase).save(folder / name)
    pipe = Flux2KleinPipeline.from_pretrained(ROOT / "models" / "flux2-tiny", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    run = dict(prompt="red heart", height=64, width=48, steps=4, guidance_scale=4.0, references=list(sizes))
    rows = min(512, pipe.tokenizer.model_max_length)
    chat = [{"role": "user", "content": run["prompt"]}]
    run["text"] = pipe.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    tokens = pipe.tokenizer(run["text"], return_tensors="pt", padding="max_length", truncation=True, max_length=rows)
    latents = torch.randn(1, 128, run["height"] // 16, run["width"] // 16)
    embeddings, _ = pipe.encode_prompt(run["prompt"], device="cpu", max_sequence_length=rows)
    negative, _ = pipe.encode_prompt("", device="cpu", max_sequence_length=rows)
    given = dict(
        prompt_embeds=embeddings, negative_prompt_embeds=negative, latents=latents, height=run["height"], width=run["width"],
        num_inference_steps=run["steps"], guidance_scale=run["guidance_scale"], output_type="pt")
    images = [Image.open(folder / name) for name in sizes]
    image = pipe(image=images, **given).images
    others = {"without": pipe(**given).images, "in the other order": pipe(image=images[::-1], **given).images}
    for what, other in others.items():
        print(f"references {what}: the image moves by {(image - other).abs().mean() * 255:.2f}/255 on average")
    (folder / "expect.json").write_text(json.dumps(dict(pipeline="../../../../models/flux2-tiny", runs=[run]), indent=1) + "\n")
    save_file({
        "input_ids.0": tokens.input_ids, "attention_mask.0": tokens.attention_mask, "text_embeddings.0": embeddings,
        "negative_text_embeddings.0": negative, "initial_latents.0": latents, "image.0": image.contiguous(),
    }, folder / "expect.safetensors")


def main():
    # A seed at which bfloat16 changes the reference itself little, so that the cases can be checked in bfloat16 too.
    different = [[[(3, 2)], [(2, 4), (3, 1)]], [[], [(2, 3)]]]
    train_case("train-edit", 4, different, guidance_embeds=True, as_batch=False)
    same = [[[(3, 2), (1, 4)]] * 2, [[(4, 2)]] * 2]
    train_case("train-edit-same", 4, same, guidance_embeds=False, as_batch=True)
    torch.manual_seed(0)
    sample_case()


if __name__ == "__main__":
    main()
