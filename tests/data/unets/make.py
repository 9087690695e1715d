"""Makes the files beside it; run it where torch, diffusers, azula and taming-transformers are:

PYTHONPATH=tests python tests/data/unets/make.py
"""

import json
from pathlib import Path

import numpy as np
import torch
from azula.plugins import adm
from diffusers import UNet2DModel
from foreign_unets import IMAGE, LABEL, STEP, TIMES, drawn
from taming.modules.diffusionmodules.model import Model

HERE = Path(__file__).parent


DDPM = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
ADM = {
    "out_channels": 6,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "attention_head_dim": 16,
    "attn_norm_num_groups": 32,
    "resnet_time_scale_shift": "scale_shift",
}
AZULA = {
    "image_size": 32,
    "num_channels": 32,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": [16],
    "num_head_channels": 16,
    "resblock_updown": True,
    "use_scale_shift_norm": True,
}
NEW_ORDER = AZULA | {
    "learn_var": False,
    "num_res_blocks": 2,
    "attention_resolutions": [],
    "num_classes": 5,
    "resblock_updown": False,
    "use_scale_shift_norm": False,
    "use_new_attention_order": True,
}
TAMING = {"ch": 32, "out_ch": 3, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": [16],
          "in_channels": 3, "resolution": 32}  # fmt: skip


@torch.no_grad()
def write(name: str, network: torch.nn.Module, settings: dict, evaluate) -> None:
    """The names and shapes of all weights, the settings, and every third pixel of the outputs."""
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    network.load_state_dict({key: torch.from_numpy(drawn(key, shapes[key])) for key in shapes})
    network.eval()
    image = torch.from_numpy(IMAGE)
    outputs = {}
    for width in (32, 64):
        x = image[..., :width].expand(len(TIMES), -1, -1, -1)
        out = evaluate(x, torch.tensor(TIMES))
        outputs[f"out_{width}"] = out[..., ::STEP, ::STEP].numpy()
    texts = {"shapes": json.dumps(shapes), "settings": json.dumps(settings)}
    np.savez_compressed(HERE / f"{name}.npz", **outputs, **texts)


labels = torch.full((len(TIMES),), LABEL)
for name, settings in (("diffusers_ddpm", DDPM), ("diffusers_adm", ADM)):
    unet = UNet2DModel(**settings)
    write(name, unet, dict(unet.config), lambda x, t, unet=unet: unet(x, t).sample)
unet = adm.make_model(**AZULA).backbone
write("azula_adm", unet, AZULA, unet)
unet = adm.make_model(**NEW_ORDER).backbone
write("azula_new_order", unet, NEW_ORDER, lambda x, t: unet(x, t, labels))
unet = Model(**TAMING)
write("taming_ddpm", unet, TAMING, unet)
