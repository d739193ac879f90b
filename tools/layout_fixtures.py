"""Writes __test__/fixtures/layouts: one tiny transformer and VAE as their publishers lay out files, and what diffusers
makes of them. Needs torch, diffusers, safetensors and gguf.

    python tools/layout_fixtures.py
"""

import hashlib
import json
import pathlib

import gguf
import numpy as np
import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from diffusers.loaders.single_file_utils import (
    convert_flux2_transformer_checkpoint_to_diffusers,
    convert_ldm_vae_checkpoint,
)
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).parent.parent / "__test__" / "fixtures" / "layouts"
DIM, JOINT, LATENT = 32, 64, 32


def bfl_transformer():
    """State dict under the names of black-forest-labs/flux2's `model.py`."""
    shapes = {
        "img_in.weight": (DIM, LATENT),
        "txt_in.weight": (DIM, JOINT),
        "time_in.in_layer.weight": (DIM, 256),
        "time_in.out_layer.weight": (DIM, DIM),
        "guidance_in.in_layer.weight": (DIM, 256),
        "guidance_in.out_layer.weight": (DIM, DIM),
        "double_stream_modulation_img.lin.weight": (6 * DIM, DIM),
        "double_stream_modulation_txt.lin.weight": (6 * DIM, DIM),
        "single_stream_modulation.lin.weight": (3 * DIM, DIM),
        "final_layer.adaLN_modulation.1.weight": (2 * DIM, DIM),
        "final_layer.linear.weight": (LATENT, DIM),
    }
    for block in range(2):
        for stream in ("img", "txt"):
            shapes |= {
                f"double_blocks.{block}.{stream}_attn.qkv.weight": (3 * DIM, DIM),
                f"double_blocks.{block}.{stream}_attn.norm.query_norm.scale": (16,),
                f"double_blocks.{block}.{stream}_attn.norm.key_norm.scale": (16,),
                f"double_blocks.{block}.{stream}_attn.proj.weight": (DIM, DIM),
                f"double_blocks.{block}.{stream}_mlp.0.weight": (6 * DIM, DIM),
                f"double_blocks.{block}.{stream}_mlp.2.weight": (DIM, 3 * DIM),
            }
    shapes |= {
        "single_blocks.0.linear1.weight": (9 * DIM, DIM),
        "single_blocks.0.linear2.weight": (DIM, 4 * DIM),
        "single_blocks.0.norm.query_norm.scale": (16,),
        "single_blocks.0.norm.key_norm.scale": (16,),
    }
    return {name: torch.randn(shape).bfloat16() for name, shape in shapes.items()}


def bfl_vae(vae):
    """The weights of a diffusers VAE under black-forest-labs/flux2's names: convert_ldm_vae_checkpoint undone by trial."""
    out = {}
    for name, value in vae.state_dict().items():
        new = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        new = new.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
        for ours, theirs in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
            new = new.replace(f"attn_1.{ours}.", f"attn_1.{theirs}.")
        for i in (0, 1):
            new = new.replace(f"mid_block.resnets.{i}", f"mid.block_{i + 1}")
        for i in range(4):
            new = new.replace(f"down_blocks.{i}.", f"down.{i}.").replace(f"up_blocks.{i}.", f"up.{3 - i}.")
        new = new.replace("resnets", "block").replace("downsamplers.0.conv", "downsample.conv")
        new = new.replace("upsamplers.0.conv", "upsample.conv")
        if "attn_1" in new and value.ndim == 2:
            value = value[:, :, None, None]
        if new.startswith("quant_conv"):
            new = "encoder." + new
        if new.startswith("post_quant_conv"):
            new = "decoder." + new
        out[new] = value.contiguous()
    return out


def digest(tensors):
    def of(tensor):
        return hashlib.sha256(np.ascontiguousarray(tensor.float().numpy()).tobytes()).hexdigest()[:16]

    return {name: [list(tensor.shape), of(tensor)] for name, tensor in sorted(tensors.items())}


def write_gguf(path, tensors, types):
    writer = gguf.GGUFWriter(path, "flux")
    for name, value in tensors.items():
        raw, kind = types(name, value)
        writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    bfl = bfl_transformer()
    save_file(bfl, FOLDER / "transformer-bfl.safetensors")
    ours = convert_flux2_transformer_checkpoint_to_diffusers(dict(bfl))
    config = dict(
        in_channels=LATENT, num_layers=2, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=JOINT, axes_dims_rope=[4] * 4, guidance_embeds=True,
    )
    wanted = {name: t.shape for name, t in Flux2Transformer2DModel(**config).state_dict().items()}
    assert wanted == {name: t.shape for name, t in ours.items()}

    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 16, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.normal_()
    stock = {k: v.bfloat16() for k, v in vae.state_dict().items() if v.is_floating_point()}
    theirs = {k: v.bfloat16() for k, v in bfl_vae(vae).items() if v.is_floating_point()}
    save_file(theirs, FOLDER / "vae-bfl.safetensors")
    back = convert_ldm_vae_checkpoint(
        {k.replace("encoder.quant_conv", "quant_conv").replace("decoder.post_quant_conv", "post_quant_conv"): v
         for k, v in theirs.items()}, vae.config)
    for name, value in back.items():
        assert name in stock and torch.equal(stock[name].reshape(-1), value.reshape(-1)), name
    assert set(stock) - set(back) <= {"bn.running_mean", "bn.running_var"}, set(stock) - set(back)

    # As ComfyUI's GGUF tools do: matrices in blocks, the rest as it is.
    def q8(name, value):
        value = value.float().numpy()
        if value.ndim == 1:
            return value, gguf.GGMLQuantizationType.F32
        return gguf.quants.quantize(value, gguf.GGMLQuantizationType.Q8_0), gguf.GGMLQuantizationType.Q8_0

    write_gguf(FOLDER / "transformer-q8_0.gguf", bfl, q8)
    read = {}
    for tensor in gguf.GGUFReader(FOLDER / "transformer-q8_0.gguf").tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        read[tensor.name] = torch.from_numpy(np.array(values))
    expected = {
        "transformer": digest(ours),
        "vae": digest(stock),
        "transformer-q8_0": digest(convert_flux2_transformer_checkpoint_to_diffusers(read)),
    }
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=0) + "\n")

    # Blocks of every kind, of random bytes, and what the `gguf` package reads in them.
    rng, kinds = np.random.default_rng(0), {}
    for kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"):
        kind = gguf.GGMLQuantizationType[kind]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        while True:
            raw = rng.integers(0, 256, (3, 256 // block * size), dtype=np.uint8)
            values = gguf.quants.dequantize(raw, kind)
            if np.isfinite(values).all():
                break
        kinds[kind.name.lower()] = (raw, kind, torch.from_numpy(values.astype(np.float32)))
    write_gguf(FOLDER / "blocks.gguf", kinds, lambda _, given: given[:2])
    save_file({name: given[2] for name, given in kinds.items()}, FOLDER / "blocks.safetensors")


main()
