"""The same training run in NeMo Automodel's pipeline over diffusers and PyTorch: prints JSON on stdout.

`step.mjs` starts it with the Python of PEER_PYTHON. See docs/performance.md for the environment.
"""

import json
import pathlib
import resource
import sys
import time

import torch
from diffusers import Flux2Transformer2DModel
from nemo_automodel.components.flow_matching.adapters.flux2 import Flux2Adapter
from nemo_automodel.components.flow_matching.pipeline import FlowMatchingPipeline

name, mode, checkpointing, steps, dtype = sys.argv[1:6]
dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
geometry = json.loads((pathlib.Path(__file__).parent / "geometries.json").read_text())[name]

torch.manual_seed(1)
with torch.device("meta"):
    model = Flux2Transformer2DModel(**geometry["transformer"], guidance_embeds=True)
model = model.to_empty(device="cpu").to(dtype)
with torch.no_grad():
    for parameter in model.parameters():
        parameter.fill_(1.0) if parameter.ndim == 1 else parameter.normal_(0, parameter.shape[1] ** -0.5)

if mode == "lora":
    from peft import LoraConfig

    targets = (
        r".*\.(to_q|to_k|to_v|add_q_proj|add_k_proj|add_v_proj|to_add_out|linear_in|linear_out|to_qkv_mlp_proj)"
        r"|.*\.to_out\.0|single_transformer_blocks\.\d+\.attn\.to_out"
    )
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=targets))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float() if dtype == torch.float32 else parameter.data
if checkpointing == "checkpointed":
    model.enable_gradient_checkpointing()
model.train()

pipeline = FlowMatchingPipeline(Flux2Adapter(), device=torch.device("cpu"), cfg_dropout_prob=0.0)
parameters = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(parameters, lr=1e-4)
height, width = geometry["latents"]
batch = {
    "image_latents": torch.randn(1, 128, height, width),
    "text_embeddings": torch.randn(1, geometry["textTokens"], geometry["transformer"]["joint_attention_dim"]),
    "data_type": "image",
}
seconds = []
for step in range(int(steps) + 1):
    started = time.perf_counter()
    _, loss, _, _ = pipeline.step(model, batch, torch.device("cpu"), dtype, step)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    seconds.append(time.perf_counter() - started)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": seconds[1:], "peakBytes": peak, "torch": torch.__version__}))
