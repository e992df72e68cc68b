"""MAE, MAE-ST, its PySlowFast version and VideoMAE as functions of their state dicts, after their repositories.

Independent of the package: plain convolutions, plain attention, tokens in the order that each repository has. The
random weights are large enough that every bias, norm and position matters.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

State = dict[str, torch.Tensor]
WIDTH, DEPTH, HEADS, DECODER_WIDTH, DECODER_DEPTH, DECODER_HEADS = 48, 3, 3, 32, 2, 2
PATCH, SIZE = 8, 32
SPACE = (SIZE // PATCH) ** 2
TUBE, FRAMES = 2, 8  # of the video networks
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Reference(NamedTuple):
    """What a network computes; M hidden tokens of N."""

    latent: torch.Tensor  # (B, V or 1 + V, D) what the encoder hands on
    pred: torch.Tensor  # (B, M, P)
    loss: torch.Tensor


# ----------------------------------------------------------------------------------------------------- random weights


class Maker:
    """Fills a state dict with random numbers."""

    def __init__(self, seed: int = 0):
        self.generator, self.state = torch.Generator().manual_seed(seed), {}

    def add(self, name: str, *shape: int, std: float = 0.2, mean: float = 0.0) -> None:
        self.state[name] = torch.randn(*shape, generator=self.generator) * std + mean

    def linear(self, name: str, outputs: int, inputs: int, bias: bool = True) -> None:
        self.add(f"{name}.weight", outputs, inputs, std=inputs**-0.5)
        if bias:
            self.add(f"{name}.bias", outputs)

    def norm(self, name: str, width: int) -> None:
        self.add(f"{name}.weight", width, mean=1.0)
        self.add(f"{name}.bias", width)

    def block(self, name: str, width: int, attention: str, ratio: float = 4.0) -> None:
        """``attention``: "qkv" (MAE), "q,k,v" (MAE-ST) or "q_bias,v_bias" (VideoMAE)."""
        hidden = int(width * ratio)
        self.norm(f"{name}.norm1", width)
        if attention == "q,k,v":
            for part in "qkv":
                self.linear(f"{name}.attn.{part}", width, width)
        else:
            self.linear(f"{name}.attn.qkv", 3 * width, width, bias=attention == "qkv")
        if attention == "q_bias,v_bias":
            for part in ("q_bias", "v_bias"):
                self.add(f"{name}.attn.{part}", width)
        self.linear(f"{name}.attn.proj", width, width)
        self.norm(f"{name}.norm2", width)
        self.linear(f"{name}.mlp.fc1", hidden, width)
        self.linear(f"{name}.mlp.fc2", width, hidden)

    def blocks(self, name: str, width: int, depth: int, attention: str) -> None:
        for number in range(depth):
            self.block(f"{name}.{number}", width, attention)


def mae_state(decoder: bool = True, learned: bool = False) -> State:
    """MAE's pre-training network, or its released encoder; ``learned``: positions that are no table."""
    make = Maker()
    make.add("cls_token", 1, 1, WIDTH)
    make.add("patch_embed.proj.weight", WIDTH, 3, PATCH, PATCH, std=0.07)
    make.add("patch_embed.proj.bias", WIDTH)
    make.add("pos_embed", 1, 1 + SPACE, WIDTH)
    make.blocks("blocks", WIDTH, DEPTH, "qkv")
    make.norm("norm", WIDTH)
    if not learned:
        make.state["pos_embed"] = image_table(WIDTH)
    if decoder:
        make.add("mask_token", 1, 1, DECODER_WIDTH)
        make.state["decoder_pos_embed"] = image_table(DECODER_WIDTH)
        make.linear("decoder_embed", DECODER_WIDTH, WIDTH)
        make.blocks("decoder_blocks", DECODER_WIDTH, DECODER_DEPTH, "qkv")
        make.norm("decoder_norm", DECODER_WIDTH)
        make.linear("decoder_pred", PATCH * PATCH * 3, DECODER_WIDTH)
    return make.state


def mae_st_state(class_token: bool = True, all_frames: bool = False, parts: bool = True) -> State:
    """MAE-ST's pre-training network; ``all_frames``: it predicts all frames of a patch; ``parts``: of positions."""
    make = Maker()
    for prefix, width in (("", WIDTH), ("decoder_", DECODER_WIDTH)):
        add_positions(make, f"{prefix}pos_embed", width, class_token, parts)
        if class_token:
            make.add(f"{prefix}cls_token", 1, 1, width)
    make.add("mask_token", 1, 1, DECODER_WIDTH)
    make.add("patch_embed.proj.weight", WIDTH, 3, TUBE, PATCH, PATCH, std=0.05)
    make.add("patch_embed.proj.bias", WIDTH)
    make.blocks("blocks", WIDTH, DEPTH, "q,k,v")
    make.norm("norm", WIDTH)
    make.linear("decoder_embed", DECODER_WIDTH, WIDTH)
    make.blocks("decoder_blocks", DECODER_WIDTH, DECODER_DEPTH, "q,k,v")
    make.norm("decoder_norm", DECODER_WIDTH)
    make.linear("decoder_pred", (TUBE if all_frames else 1) * PATCH * PATCH * 3, DECODER_WIDTH)
    return make.state


def add_positions(make: Maker, name: str, width: int, class_token: bool, parts: bool) -> None:
    """Of a clip: a part for space, one for time and one for the class token, or one for every token."""
    slots = FRAMES // TUBE
    shapes = {"_spatial": SPACE, "_temporal": slots, "_class": 1} if parts else {"": SPACE * slots + int(class_token)}
    for part, rows in shapes.items():
        if part != "_class" or class_token:
            make.add(f"{name}{part}", 1, rows, width)


def slowfast_state(
    class_token: bool = True, all_frames: bool = False, parts: bool = False, one_matrix: bool = False
) -> State:
    """PySlowFast's MAE-ST; ``parts``: of the decoder's positions; ``one_matrix``: for queries, keys and values."""
    make, attention = Maker(2), "qkv" if one_matrix else "q,k,v"
    if class_token:
        make.add("cls_token", 1, 1, WIDTH)
    add_positions(make, "pos_embed", WIDTH, class_token, parts=True)
    make.add("patch_embed.proj.weight", WIDTH, 3, TUBE, PATCH, PATCH, std=0.05)
    make.add("patch_embed.proj.bias", WIDTH)
    make.blocks("blocks", WIDTH, DEPTH, attention)
    make.norm("norm", WIDTH)
    make.add("mask_token", 1, 1, DECODER_WIDTH)
    make.linear("decoder_embed", DECODER_WIDTH, WIDTH)
    add_positions(make, "dec_pos_embed" if parts else "decoder_pos_embed", DECODER_WIDTH, class_token, parts)
    make.blocks("pred_head.transforms.0", DECODER_WIDTH, DECODER_DEPTH, attention)
    make.norm(f"pred_head.transforms.0.{DECODER_DEPTH}", DECODER_WIDTH)
    make.linear("pred_head.projections.0", (TUBE if all_frames else 1) * PATCH * PATCH * 3, DECODER_WIDTH)
    return make.state


def mae_st_classifier(classes: int = 5, parts: bool = True) -> State:
    """MAE-ST's fine-tuned network: as the encoder, with a head."""
    state = mae_st_state(parts=parts)
    state = {name: tensor for name, tensor in state.items() if not name.startswith(("decoder_", "mask_"))}
    make = Maker(1)
    make.linear("head", classes, WIDTH)
    return state | make.state


def videomae_state() -> State:
    """VideoMAE's pre-training network."""
    make = Maker()
    make.add("encoder.patch_embed.proj.weight", WIDTH, 3, TUBE, PATCH, PATCH, std=0.05)
    make.add("encoder.patch_embed.proj.bias", WIDTH)
    make.blocks("encoder.blocks", WIDTH, DEPTH, "q_bias,v_bias")
    make.norm("encoder.norm", WIDTH)
    make.add("mask_token", 1, 1, DECODER_WIDTH)
    make.linear("encoder_to_decoder", DECODER_WIDTH, WIDTH, bias=False)
    make.blocks("decoder.blocks", DECODER_WIDTH, DECODER_DEPTH, "q_bias,v_bias")
    make.norm("decoder.norm", DECODER_WIDTH)
    make.linear("decoder.head", TUBE * PATCH * PATCH * 3, DECODER_WIDTH)
    return make.state


def videomae_classifier(classes: int = 5) -> State:
    """VideoMAE's fine-tuned network."""
    encoder = {name.removeprefix("encoder."): t for name, t in videomae_state().items() if name.startswith("encoder.")}
    encoder = {name: tensor for name, tensor in encoder.items() if not name.startswith("norm.")}
    make = Maker(1)
    make.norm("fc_norm", WIDTH)
    make.linear("head", classes, WIDTH)
    return encoder | make.state


def image_table(width: int) -> torch.Tensor:
    """MAE's fixed positions (1, 1 + h * w, D): columns' waves, then rows'; zero for the class token."""
    side = SIZE // PATCH
    frequencies = 1 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [place.reshape(-1, 1).double() * frequencies for place in (column, row)]
    table = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    return torch.cat([torch.zeros(1, width), table.float()]).unsqueeze(0)


def numbered_table(tokens: int, width: int) -> torch.Tensor:
    """VideoMAE's fixed positions (1, N, D): sine and cosine take turns."""
    angles = torch.arange(tokens)[:, None] / 10000 ** (2 * (torch.arange(width, dtype=torch.float64) // 2) / width)
    angles[:, 0::2], angles[:, 1::2] = angles[:, 0::2].sin(), angles[:, 1::2].cos()
    return angles.float().unsqueeze(0)


# ----------------------------------------------------------------------------------------------------------- networks


def run_blocks(x: torch.Tensor, state: State, name: str, heads: int) -> torch.Tensor:
    number = 0
    while f"{name}.{number}.norm1.weight" in state:
        block = f"{name}.{number}"
        x = x + attention(norm(x, state, f"{block}.norm1"), state, f"{block}.attn", heads)
        hidden = F.gelu(linear(norm(x, state, f"{block}.norm2"), state, f"{block}.mlp.fc1"))
        x = x + linear(hidden, state, f"{block}.mlp.fc2")
        number += 1
    return x


def attention(x: torch.Tensor, state: State, name: str, heads: int) -> torch.Tensor:
    if f"{name}.qkv.weight" in state:
        bias = state.get(f"{name}.qkv.bias")
        if f"{name}.q_bias" in state:
            bias = torch.cat([state[f"{name}.q_bias"], torch.zeros(x.shape[-1]), state[f"{name}.v_bias"]])
        parts = F.linear(x, state[f"{name}.qkv.weight"], bias).chunk(3, dim=-1)
    else:
        parts = [linear(x, state, f"{name}.{part}") for part in "qkv"]
    batch, tokens, width = x.shape
    q, k, v = (part.reshape(batch, tokens, heads, width // heads).transpose(1, 2) for part in parts)
    scores = (q @ k.transpose(-1, -2) * (width // heads) ** -0.5).softmax(dim=-1)
    return linear((scores @ v).transpose(1, 2).reshape(batch, tokens, width), state, f"{name}.proj")


def linear(x: torch.Tensor, state: State, name: str) -> torch.Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def norm(x: torch.Tensor, state: State, name: str) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)


def embed(clip: torch.Tensor, state: State, name: str) -> torch.Tensor:
    """(B, C, T, H, W) -> (B, N, D) by the convolution."""
    weight = state[f"{name}.weight"]
    weight = weight.unsqueeze(2) if weight.dim() == 4 else weight
    return F.conv3d(clip, weight, state[f"{name}.bias"], stride=weight.shape[2:]).flatten(2).transpose(1, 2)


def rows(x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """The rows of (B, N, D) or (1, N, D) at ``chosen`` (B, N), the same number in every clip."""
    x = x.expand(len(chosen), -1, -1)
    return x[chosen].reshape(len(x), -1, x.shape[-1])


def cut(clip: torch.Tensor, tube: int) -> torch.Tensor:
    """(B, C, T, H, W) -> (B, N, tube * p * p, C)."""
    batch, channels, frames, size, _ = clip.shape
    side, p = size // PATCH, PATCH
    x = clip.reshape(batch, channels, frames // tube, tube, side, p, side, p)
    return torch.einsum("nctuhpwq->nthwupqc", x).reshape(batch, frames // tube * side * side, tube * p * p, channels)


def normalized(patches: torch.Tensor) -> torch.Tensor:
    mean, variance = patches.mean(dim=-1, keepdim=True), patches.var(dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6) ** 0.5


def whole_sequence(visible: torch.Tensor, hidden_token: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Visible tokens (B, V, d) at their places among mask tokens -> (B, N, d)."""
    x = hidden_token.expand(*hidden.shape, -1).clone()
    x[~hidden] = visible.reshape(-1, visible.shape[-1])
    return x


def mae(state: State, image: torch.Tensor, hidden: torch.Tensor, target: str = "normalized") -> Reference:
    """MAE on images (B, C, H, W); hidden (B, N), True = hidden."""
    x = embed(image.unsqueeze(2), state, "patch_embed.proj") + state["pos_embed"][:, 1:]
    token = state["cls_token"] + state["pos_embed"][:, :1]
    x = torch.cat([token.expand(len(x), -1, -1), rows(x, ~hidden)], dim=1)
    latent = norm(run_blocks(x, state, "blocks", HEADS), state, "norm")
    x = linear(latent, state, "decoder_embed")
    x = torch.cat([x[:, :1], whole_sequence(x[:, 1:], state["mask_token"], hidden)], dim=1)
    x = norm(run_blocks(x + state["decoder_pos_embed"], state, "decoder_blocks", DECODER_HEADS), state, "decoder_norm")
    pred = linear(x, state, "decoder_pred")[:, 1:]
    patches = cut(image.unsqueeze(2), 1).flatten(-2)
    wanted = normalized(patches) if target == "normalized" else patches
    return Reference(latent, rows(pred, hidden), ((pred - wanted) ** 2).mean(-1)[hidden].mean())


def mae_st(state: State, clip: torch.Tensor, hidden: torch.Tensor, frames: tuple[int, ...]) -> Reference:
    """MAE-ST on clips (B, C, T, H, W); ``frames``: those of the clip that are the targets."""
    has_token = "cls_token" in state
    latent = video_latents(state, clip, hidden)[:, int(has_token) :]
    x = whole_sequence(linear(latent, state, "decoder_embed"), state["mask_token"], hidden)
    if has_token:
        x = torch.cat([state["decoder_cls_token"].expand(len(x), -1, -1), x], dim=1)
    x = x + places(state, "decoder_pos_embed")
    x = norm(run_blocks(x, state, "decoder_blocks", DECODER_HEADS), state, "decoder_norm")
    pred = linear(x, state, "decoder_pred")[:, int(has_token) :]
    wanted = normalized(cut(clip[:, :, list(frames)], len(frames) * TUBE // clip.shape[2]).flatten(-2))
    return Reference(latent, rows(pred, hidden), ((pred - wanted) ** 2).mean(-1)[hidden].mean())


def places(state: State, name: str) -> torch.Tensor:
    """Positions (1, N, D), or (1, 1 + N, D) with the class token's in front."""
    if name in state:
        return state[name]
    place = (state[f"{name}_temporal"].unsqueeze(2) + state[f"{name}_spatial"].unsqueeze(1)).flatten(1, 2)
    return torch.cat([state[f"{name}_class"], place], dim=1) if f"{name}_class" in state else place


def video_latents(state: State, clip: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """The encoder of MAE-ST and of PySlowFast: normalised tokens of the class, where there is one, and of V patches."""
    return norm(run_blocks(video_tokens(state, clip, hidden), state, "blocks", HEADS), state, "norm")


def video_tokens(state: State, clip: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    first, place = int("cls_token" in state), places(state, "pos_embed")
    x = rows(embed(clip, state, "patch_embed.proj") + place[:, first:], ~hidden)
    if not first:
        return x
    return torch.cat([(state["cls_token"] + place[:, :1]).expand(len(x), -1, -1), x], dim=1)


def slowfast(state: State, clip: torch.Tensor, hidden: torch.Tensor) -> Reference:
    """PySlowFast's MAE-ST: the class token goes through the decoder too; of every patch the first frame, or all."""
    first, name = int("cls_token" in state), "pred_head.transforms.0"
    latent = video_latents(state, clip, hidden)
    x = linear(latent, state, "decoder_embed")
    x = torch.cat([x[:, :first], whole_sequence(x[:, first:], state["mask_token"], hidden)], dim=1)
    x = x + places(state, "decoder_pos_embed" if "decoder_pos_embed" in state else "dec_pos_embed")
    last = max(int(key.split(".")[3]) for key in state if key.startswith(name))
    x = norm(run_blocks(x, state, name, DECODER_HEADS), state, f"{name}.{last}")[:, first:]
    pred = linear(rows(x, hidden), state, "pred_head.projections.0")
    tube = pred.shape[-1] // (PATCH * PATCH * 3)
    wanted = rows(normalized(cut(clip if tube == TUBE else clip[:, :, ::TUBE], tube).flatten(-2)), hidden)
    return Reference(latent, pred, ((pred - wanted) ** 2).mean())


def mae_st_logits(state: State, clip: torch.Tensor) -> torch.Tensor:
    """MAE-ST's fine-tuned network: mean over the patch tokens, norm, head."""
    x = video_tokens(state, clip, torch.zeros(len(clip), SPACE * FRAMES // TUBE, dtype=torch.bool))
    return linear(norm(run_blocks(x, state, "blocks", HEADS)[:, 1:].mean(dim=1), state, "norm"), state, "head")


def videomae(state: State, clip: torch.Tensor, hidden: torch.Tensor) -> Reference:
    """VideoMAE on clips (B, C, T, H, W), normalised by ImageNet's statistics."""
    x = embed(clip, state, "encoder.patch_embed.proj")
    x = rows(x + state.get("encoder.pos_embed", numbered_table(*x.shape[1:])), ~hidden)
    latent = norm(run_blocks(x, state, "encoder.blocks", HEADS), state, "encoder.norm")
    x = linear(latent, state, "encoder_to_decoder")
    place = state.get("pos_embed", numbered_table(hidden.shape[1], x.shape[-1]))
    x = torch.cat([x + rows(place, ~hidden), state["mask_token"] + rows(place, hidden)], dim=1)
    x = run_blocks(x, state, "decoder.blocks", DECODER_HEADS)[:, -int(hidden[0].sum()) :]
    pred = linear(norm(x, state, "decoder.norm"), state, "decoder.head")
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = cut(clip * std + mean, TUBE)
    wanted = (pixels - pixels.mean(dim=-2, keepdim=True)) / (pixels.var(dim=-2, keepdim=True).sqrt() + 1e-6)
    return Reference(latent, pred, ((pred - rows(wanted.flatten(-2), hidden)) ** 2).mean())


def videomae_logits(state: State, clip: torch.Tensor) -> torch.Tensor:
    """VideoMAE's fine-tuned network: mean over the tokens, norm, head."""
    x = embed(clip, state, "patch_embed.proj")
    x = run_blocks(x + state.get("pos_embed", numbered_table(*x.shape[1:])), state, "blocks", HEADS)
    return linear(norm(x.mean(dim=1), state, "fc_norm"), state, "head")


def image_logits(state: State, image: torch.Tensor) -> torch.Tensor:
    """MAE's fine-tuned network on images (B, C, H, W): mean and norm, or norm and class token; then the head."""
    x = embed(image.unsqueeze(2), state, "patch_embed.proj")
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], dim=1) + state["pos_embed"]
    x = run_blocks(x, state, "blocks", HEADS)
    if "fc_norm.weight" in state:
        return linear(norm(x[:, 1:].mean(dim=1), state, "fc_norm"), state, "head")
    return linear(norm(x, state, "norm")[:, 0], state, "head")
