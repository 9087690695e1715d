"""Makes edm_*.npz beside it; run it where torch and deepinv are:

PYTHONPATH=tests python tests/data/unets/make_edm.py
"""

import json
from pathlib import Path

import numpy as np
import torch
from deepinv.models import ADMUNet, NCSNpp
from foreign_unets import C_NOISE, LABEL, drawn_edm, edm_image

HERE = Path(__file__).parent
SIZE = {"img_resolution": 8, "pretrained": None}
NETWORKS = {
    "edm_ddpmpp": (
        NCSNpp,
        {"model_type": "ddpm", "channel_mult": (2, 1), "num_blocks": 1, "attn_resolutions": (4,)},
    ),
    "edm_ncsnpp": (
        NCSNpp,
        {
            "model_type": "ncsn",
            "channel_mult": (1, 1, 1),
            "num_blocks": 1,
            "attn_resolutions": (4,),
            "label_dim": 5,
        },
    ),
    "edm_adm": (
        ADMUNet,
        {
            "model_channels": 64,
            "channel_mult": (1, 2),
            "num_blocks": 1,
            "attn_resolutions": (8,),
            "label_dim": 5,
        },
    ),
}
PUBLISHED = {
    "ffhq-64x64-uncond-ve": (NCSNpp, {"model_type": "ncsn"}),
    "imagenet64-cond": (ADMUNet, {"label_dim": 1000}),
}


def shapes_of(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


@torch.no_grad()
def main() -> None:
    """Names and shapes of all weights, and the outputs at both sizes of the small networks."""
    published = {name: kind(pretrained=None, **given) for name, (kind, given) in PUBLISHED.items()}
    texts = {name: json.dumps(shapes_of(network)) for name, network in published.items()}
    np.savez_compressed(HERE / "edm_published.npz", **texts)
    for name, (kind, settings) in NETWORKS.items():
        network = kind(**SIZE, **settings)
        state, shapes = network.state_dict(), shapes_of(network)
        fixed = {key: tensor for key, tensor in state.items() if "resample_filter" in key}
        random = {key: torch.from_numpy(drawn_edm(key, shapes[key])) for key in shapes}
        network.load_state_dict(random | fixed)
        network.eval()
        labels = torch.eye(5)[[LABEL] * 3] if "label_dim" in settings else None
        outputs = {}
        for width in (8, 12):
            image = torch.from_numpy(edm_image(width)).expand(3, -1, -1, -1)
            out = network.forward_unet(image, torch.from_numpy(C_NOISE), class_labels=labels)
            outputs[f"out_{width}"] = out.numpy()
        np.savez_compressed(HERE / f"{name}.npz", **outputs, shapes=json.dumps(shapes))


if __name__ == "__main__":
    main()
