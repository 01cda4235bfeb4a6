"""StyleGAN in plain float64 NumPy, written from the paper with no speed in mind: what our networks are compared with.

Upscaling, convolution, blur and mean are separate steps here; nothing is fused. `weights` are a network's state dict as arrays.
"""

import numpy as np


def lrelu(x):
    return np.where(x >= 0, x, 0.2 * x)


def dense(x, weight, bias, gain, lr_multiplier=1.0):
    scale = gain / np.sqrt(weight.shape[1]) * lr_multiplier
    return x @ (weight * scale).T + bias * lr_multiplier


def conv(x, weight, gain):
    """Zero-padded correlation, [B, I, H, W] with [O, I, k, k]; no bias."""
    outputs, inputs, k, _ = weight.shape
    weight = weight * (gain / np.sqrt(inputs * k * k))
    padded = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    h, w = x.shape[2:]
    y = np.zeros((len(x), outputs, h, w))
    for i in range(k):
        for j in range(k):
            y += np.einsum("bihw,oi->bohw", padded[:, :, i : i + h, j : j + w], weight[:, :, i, j])
    return y


def blur(x):
    taps = np.outer([1, 2, 1], [1, 2, 1]) / 16
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    h, w = x.shape[2:]
    return sum(taps[i, j] * padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3))


def up(x):
    return x.repeat(2, axis=2).repeat(2, axis=3)


def down(x):
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5))


def per_channel(v):
    return v[None, :, None, None]


ROOT2 = np.sqrt(2)


def mapping(weights, z):
    x = z / np.sqrt((z**2).mean(axis=1, keepdims=True) + 1e-8)
    layer = 0
    while f"_mapping.layers.{layer}.weight" in weights:
        at = f"_mapping.layers.{layer}."
        x = lrelu(dense(x, weights[at + "weight"], weights[at + "bias"], ROOT2, 0.01))
        layer += 1
    return x


def epilogue(weights, at, x, w, noise):
    """noise -> leaky ReLU -> instance norm -> style; the bias is in x already."""
    x = lrelu(x + per_channel(weights[at + "noise_strength"]) * noise)
    x = x - x.mean(axis=(2, 3), keepdims=True)
    x = x / np.sqrt((x**2).mean(axis=(2, 3), keepdims=True) + 1e-8)
    style = dense(w, weights[at + "style.weight"], weights[at + "style.bias"], 1.0)
    scale, shift = np.split(style, 2, axis=1)
    return x * (scale[:, :, None, None] + 1) + shift[:, :, None, None]


def synthesis(weights, w_plus, lod):
    blocks = w_plus.shape[1] // 2
    images, x = [], None
    for i in range(blocks):
        at = f"blocks.{i}."
        if i == 0:
            x = np.repeat(weights[at + "const"], len(w_plus), axis=0) + per_channel(weights[at + "const_bias"])
        else:
            x = blur(conv(up(x), weights[at + "up.weight"], ROOT2)) + per_channel(weights[at + "up.bias"])
        x = epilogue(weights, at + "styled.0.", x, w_plus[:, 2 * i], weights[f"noise{2 * i}"])
        x = conv(x, weights[at + "conv.weight"], ROOT2) + per_channel(weights[at + "conv.bias"])
        x = epilogue(weights, at + "styled.1.", x, w_plus[:, 2 * i + 1], weights[f"noise{2 * i + 1}"])
        image = conv(x, weights[f"to_image.{i}.weight"], 1.0) + per_channel(weights[f"to_image.{i}.bias"])
        images.append(image)
    whole, fade = int(lod), lod - int(lod)
    image = images[blocks - 1 - whole]
    if fade:
        image = image + (up(images[blocks - 2 - whole]) - image) * fade
    for _ in range(whole):
        image = up(image)
    return image


def minibatch_stddev(x, group=4):
    b, _, h, w = x.shape
    groups = b // group
    extra = np.zeros((b, 1, h, w))
    for m in range(groups):
        members = x[m::groups]
        extra[m::groups] = np.sqrt(members.var(axis=0) + 1e-8).mean()
    return np.concatenate([x, extra], axis=1)


def discriminator(weights, images, lod):
    blocks = sum(name.startswith("from_image") and name.endswith("weight") for name in weights)
    whole, fade = int(lod), lod - int(lod)
    for _ in range(whole):
        images = down(images)

    def from_image(i, image):
        at = f"from_image.{i}."
        return lrelu(conv(image, weights[at + "weight"], ROOT2) + per_channel(weights[at + "bias"]))

    top = blocks - 1 - whole
    x = from_image(top, images)
    for i in range(top - 1, -1, -1):
        at = f"blocks.{i}."
        x = lrelu(conv(x, weights[at + "conv.weight"], ROOT2) + per_channel(weights[at + "conv.bias"]))
        x = lrelu(down(conv(blur(x), weights[at + "down.weight"], ROOT2)) + per_channel(weights[at + "down.bias"]))
        if i == top - 1 and fade:
            x = x + (from_image(i, down(images)) - x) * fade
    x = minibatch_stddev(x)
    x = lrelu(conv(x, weights["tail.conv.weight"], ROOT2) + per_channel(weights["tail.conv.bias"]))
    x = lrelu(dense(x.reshape(len(x), -1), weights["tail.dense0.weight"], weights["tail.dense0.bias"], ROOT2))
    return dense(x, weights["tail.dense1.weight"], weights["tail.dense1.bias"], 1.0)
