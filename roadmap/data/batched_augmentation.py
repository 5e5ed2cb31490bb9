"""Training augmentation of whole batches, on any device: timm's transforms as Pillow computes them.

    policy = RandAugment.parse("rand-m9-mstd0.5-inc1")
    augment = Augmentation(size=32, mean=MEAN, std=STD, crop="padded", policy=policy, erasing=0.25)
    x = augment(images, Keys(seed, epoch, index))

Needs torch alone. Every sample has its own crop, flip, operations, magnitudes and erased rectangle,
drawn from (seed, epoch, index) and not from a generator's state: a sample looks the same in any
batch, on any rank and after any resume. The draws are made on the host, a few dozen numbers a
sample; so the host knows how many samples get which operation and never waits for the device.

Shapes: N samples of a batch, n of those that get one operation, C channels (1 or 3), H rows, W
columns. Pixels are uint8 (N, C, H, W) until they are normalized.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Kernel = Literal["bilinear", "bicubic"]
KERNELS: tuple[Kernel, Kernel] = ("bilinear", "bicubic")

# Random numbers -------------------------------------------------------------------------------------------------------

CROP, FLIP, POLICY, ERASING, NOISE = range(5)  # what a number is for: each has a stream of its own
WORD = 0xFFFFFFFF


def philox(counter: Sequence[Any], key: int) -> Sequence[Tensor]:
    """Philox4x32-10: four 32-bit words and a 64-bit key -> four random words, as int64 tensors that broadcast.

    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. A product of two words
    may wrap around in a signed int64; its bits are right all the same, and the mask drops the sign.
    """
    a, b, c, d = counter
    k, m = key & WORD, key >> 32 & WORD
    for _ in range(10):
        x, y = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (y >> 32 & WORD) ^ b ^ k, y & WORD, (x >> 32 & WORD) ^ d ^ m, x & WORD
        k, m = k + 0x9E3779B9 & WORD, m + 0xBB67AE85 & WORD
    return a, b, c, d


def unit(words: Tensor) -> Tensor:
    """Random words -> float64 in (0, 1), never 0 nor 1."""
    return (words.double() + 0.5) * 2.0**-32


def _radius(u: Tensor) -> Tensor:
    return torch.sqrt(-2 * torch.log(u))


def normal(u: Tensor, v: Tensor) -> Tensor:
    """Two uniform numbers -> one of the normal distribution (Box and Muller)."""
    return _radius(u) * torch.cos(2 * math.pi * v)


@dataclass(frozen=True)
class Keys:
    """What N samples' random numbers are made from: a 64-bit seed, epoch and index (N,) int64 on the host."""

    seed: int
    epoch: Tensor
    index: Tensor

    def to(self, images: Tensor) -> Keys:
        return Keys(self.seed, to_device(self.epoch, images), to_device(self.index, images))

    def words(self, purpose: int, block: Tensor, sample: Tensor) -> Sequence[Tensor]:
        """Four random words for each pair of a sample and the number of a block; both broadcast."""
        return philox((self.index[sample] & WORD, self.epoch[sample] & WORD, block, purpose), self.seed)

    def uniform(self, purpose: int, count: int) -> Tensor:
        """(N, count) float64 in (0, 1). More of them do not change the first ones."""
        sample, block = torch.arange(len(self.index))[:, None], torch.arange(-(-count // 4))
        return unit(torch.stack(tuple(self.words(purpose, block, sample)), -1)).flatten(1)[:, :count]


# Rectangles -----------------------------------------------------------------------------------------------------------

ATTEMPTS = 10


@dataclass(frozen=True)
class Boxes:
    """A rectangle for each sample, on the host: (N,) int64 each."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def below(u: Tensor, count: Tensor | int) -> Tensor:
    """Uniform numbers -> integers from 0 to count - 1."""
    return (u * count).long()


def random_boxes(
    u: Tensor, image: tuple[int, int], area: tuple[float, float], ratio: tuple[float, float], largest: tuple[int, int]
) -> tuple[Boxes, Tensor]:
    """Rectangles of random area and ratio of width to height, and which samples got one: (N,) bool.

    The first of ten attempts that is no larger than `largest` counts. u: (N, 22) uniform numbers.
    """
    size = (area[0] + u[:, :ATTEMPTS] * (area[1] - area[0])) * image[0] * image[1]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + u[:, ATTEMPTS:-2] * (high - low))
    heights, widths = (size / aspect).sqrt().round().long(), (size * aspect).sqrt().round().long()
    fits = (heights <= largest[0]) & (widths <= largest[1])
    first = fits.byte().argmax(1, keepdim=True)
    height, width = heights.gather(1, first)[:, 0], widths.gather(1, first)[:, 0]
    top, left = below(u[:, -2], image[0] - height + 1), below(u[:, -1], image[1] - width + 1)
    return Boxes(top, left, height, width), fits.any(1)


def crop_numbers(keys: Keys) -> Tensor:
    """(N, 22) uniform numbers, of which the random resized crop's rectangles are made."""
    return keys.uniform(CROP, 2 * ATTEMPTS + 2)


def crop_boxes(keys: Keys, image: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]) -> Boxes:
    """The random resized crop's rectangles; where no attempt fits, the largest central one of a legal ratio."""
    return drawn_boxes(crop_numbers(keys), image, scale, ratio)


def drawn_boxes(u: Tensor, image: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]) -> Boxes:
    """The same from the numbers (N, 22), for images of which each has its own size."""
    boxes, fits = random_boxes(u, image, scale, ratio, image)
    height, width = min(image[0], round(image[1] / ratio[0])), min(image[1], round(image[0] * ratio[1]))
    central = ((image[0] - height) // 2, (image[1] - width) // 2, height, width)
    drawn = (boxes.top, boxes.left, boxes.height, boxes.width)
    return Boxes(*(torch.where(fits, a, b) for a, b in zip(drawn, central, strict=True)))


# Crop and flip --------------------------------------------------------------------------------------------------------


def places(n: int, count: int, flipped: Tensor) -> Tensor:
    """(n, count) int64: which column stands in each place, the last one first where a sample is flipped, (n,) bool."""
    forward = torch.arange(count).expand(n, count)
    return torch.where(flipped[:, None], forward.flip(1), forward)


def padded_crop(images: Tensor, top: Tensor, left: Tensor, flipped: Tensor, padding: int) -> Tensor:
    """Cut (H, W) at (top, left) out of the images in a black border of `padding` pixels, then mirror it."""
    n, c, h, w = images.shape
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    rows = top[:, None] + torch.arange(h)
    columns = left[:, None] + places(n, w, flipped)
    pixels = to_device(rows * padded.shape[3], images)[:, :, None] + to_device(columns, images)[:, None]
    return padded.flatten(2).gather(2, pixels.view(n, 1, -1).expand(n, c, -1)).view(n, c, h, w)


def resized_crop(images: Tensor, boxes: Boxes, flipped: Tensor, size: int, kernel: Kernel) -> Tensor:
    """Cut each box out, resize it to (size, size), to the bit as Pillow does, and mirror it.

    Pillow rounds to uint8 between its two passes, columns first, and sums in integers.
    """
    n, c, h, _ = images.shape
    across = resize_taps(boxes.left, boxes.width, places(n, size, flipped), kernel)
    down = resize_taps(boxes.top, boxes.height, places(n, size, torch.zeros_like(flipped)), kernel)
    columns = _resample(images.permute(0, 3, 1, 2).reshape(n, -1, c * h), *across)
    rows = columns.view(n, size, c, h).permute(0, 3, 2, 1).reshape(n, h, c * size)
    return _resample(rows, *down).view(n, size, c, size).transpose(1, 2).contiguous()


BITS, PIECE = 22, 32  # of a weight's fraction; images resized at a time


def _resample(lines: Tensor, source: Tensor, weights: Tensor) -> Tensor:
    """(n, L, M) -> (n, size, M): each new line is a weighted sum of lines; taps (n, size, T) as of `resize_taps`."""
    n, count, width = lines.shape
    source = to_device((source + torch.arange(n)[:, None, None] * count).permute(2, 0, 1).contiguous(), lines)
    weights, lines = to_device(weights, lines), lines.flatten(0, 1)
    new = torch.empty(n, weights.shape[1], width, dtype=torch.uint8, device=lines.device)
    # On a CPU a few images at a time, in the same memory: fresh memory and a full cache cost more than the arithmetic.
    piece = min(n, PIECE) if lines.device.type == "cpu" else n
    buffers = torch.empty(2, piece, weights.shape[1], width, dtype=torch.int32, device=lines.device)
    for at in range(0, n, piece):
        total, product = buffers[:, : n - at]
        total.fill_(1 << BITS - 1)
        for t in range(len(source)):
            taken = lines.index_select(0, source[t, at : at + piece].flatten())
            total += product.copy_(taken.view_as(product)).mul_(weights[at : at + piece, :, t, None])
        new[at : at + piece] = total.bitwise_right_shift_(BITS).clamp_(0, 255)
    return new


def resize_taps(start: Tensor, length: Tensor, place: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Which lines make up each new line and their weights in units of 2^-22: (n, size, T) int64 and int32.

    start, length: of the part that is resized, (n,). place: the new lines, (n, size).
    A reduction widens the kernel by its factor, so that every pixel counts (antialiasing).
    """
    scale = length.double()[:, None, None] / place.shape[1]
    stretch = scale.clamp(min=1)
    support = (1 if kernel == "bilinear" else 2) * stretch
    center = (place[:, :, None] + 0.5) * scale
    first = (center - support + 0.5).long().clamp(min=0)
    end = torch.minimum((center + support + 0.5).long(), length[:, None, None])
    tap = first + torch.arange(int((end - first).max()))
    weights = RESIZE_KERNELS[kernel]((tap - center + 0.5) * (1 / stretch)) * (tap < end)
    weights = weights / weights.sum(2, keepdim=True)
    fixed = (weights * (1 << BITS) + torch.copysign(torch.tensor(0.5), weights)).int()
    return start[:, None, None] + torch.minimum(tap, end - 1), fixed


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _keys_cubic(x: Tensor) -> Tensor:
    """The cubic of a = -1/2."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, far * (x < 2))


RESIZE_KERNELS = {"bilinear": _triangle, "bicubic": _keys_cubic}


# Operations that are tables -------------------------------------------------------------------------------------------
# Of (n, C, H, W) to (n, C or 1, 256): what each value of a pixel becomes. level: magnitude, (n, 1, 1) float64 from 0
# to 10; sign: 1 or -1, likewise. "Increasing" operations do more the higher the level.


def _values(images: Tensor) -> Tensor:
    return torch.arange(256, device=images.device)


def auto_contrast(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Stretch each channel to 0..255. In float64 as in Python: the rounding of 255 / range shows in the pixels.

    (Of a number and a tensor, torch would multiply by the reciprocal.)
    """
    low, high = images.amin((2, 3))[..., None].double(), images.amax((2, 3))[..., None].double()
    scale = torch.full_like(low, 255) / (high - low)
    stretched = (_values(images) * scale + -low * scale).clamp(0, 255)
    return torch.where(high > low, stretched, _values(images)).byte()


def equalize(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Flatten each channel's histogram; the largest value's count stays out of the step's size."""
    flat = images.flatten(2).long()
    one = torch.ones((), dtype=torch.int64, device=images.device)
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, flat, one.expand_as(flat))
    last = counts.gather(2, flat.amax(2, keepdim=True))
    step = (flat.shape[2] - last) // 255
    before = counts.cumsum(2) - counts
    spread = ((step // 2 + before) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, spread, _values(images)).byte()


def invert(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    return (255 - _values(images)).byte().expand(len(images), 1, 256)


def posterize_increasing(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Keep the 4 to 0 highest bits."""
    dropped = 4 + (level / 10 * 4).long()
    return (_values(images) >> dropped << dropped).byte()


def solarize_increasing(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Invert what is not below a threshold."""
    threshold = 256 - (level / 10 * 256).long()
    return torch.where(_values(images) < threshold, _values(images), 255 - _values(images)).byte()


def solarize_add(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Add up to 110 to the dark half."""
    values = _values(images)
    return torch.where(values < 128, values + (level / 10 * 110).long(), values).clamp(max=255).byte()


def brightness_increasing(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    return blend(torch.zeros((), device=images.device), _values(images).float(), enhancement(level, sign))


def contrast_increasing(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Blend with the mean of the grey image, rounded half up."""
    grey = luma(images).flatten(2)
    mean = (2 * grey.sum(2, keepdim=True) + grey.shape[2]) // (2 * grey.shape[2])
    return blend(mean.float(), _values(images).float(), enhancement(level, sign))


# Other operations -----------------------------------------------------------------------------------------------------


def enhancement(level: Tensor, sign: Tensor) -> Tensor:
    """How much of the image a blend keeps: 1 is all, farther from 1 is a stronger change; 0.1 to 1.9."""
    return (1 + sign * (level / 10 * 0.9)).clamp(min=0.1).float()


def blend(base: Tensor, image: Tensor, factor: Tensor) -> Tensor:
    """base + factor (image - base) in float32 -> uint8; Pillow cuts the fraction off."""
    return (base + factor * (image - base)).clamp_(0, 255).byte()


def luma(images: Tensor) -> Tensor:
    """(n, C, H, W) -> (n, 1, H, W) int32, ITU-R 601 in 16 bits."""
    if images.shape[1] == 1:
        return images.int()
    red, green, blue = images.int().split(1, 1)
    return red * 19595 + green * 38470 + blue * 7471 + 0x8000 >> 16


def color_increasing(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Blend with the grey image."""
    return blend(luma(images).float(), images.float(), enhancement(level, sign)[..., None])


def sharpness_increasing(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Blend with a smoothed image; the outermost pixels are left as they are.

    The kernel is 1/13 around 5/13, its sum rounded. Thirteenths have no ties, so float32 is exact.
    """
    pixels = images.float()
    lines = pixels[:, :, :-2] + pixels[:, :, 1:-1] + pixels[:, :, 2:]
    inner = pixels[:, :, 1:-1, 1:-1]
    around = lines[..., :-2] + lines[..., 1:-1] + lines[..., 2:]
    smooth = pixels.clone()
    smooth[:, :, 1:-1, 1:-1] = ((around + 4 * inner) / 13 + 0.5).floor()
    return blend(smooth, pixels, enhancement(level, sign)[..., None])


# Geometric operations -------------------------------------------------------------------------------------------------
# Output pixel (x, y) takes the input at the image of (x + 1/2, y + 1/2); where that lies outside, the fill colour.
# Neighbours beyond the border are those on it.

NUDGE = 2.0**-12  # Pillow cuts fractions off: without it, weights that sum to 1 - 2^-24 would darken a flat image


def _taps(kernel: Kernel, d: Tensor) -> list[tuple[int, Tensor]]:
    """Offsets from the pixel at or before a place and their weights; d: the way from that pixel, 0 to 1.

    This cubic has a = -1, the one for resizing a = -1/2: Pillow has both.
    """
    if kernel == "bilinear":
        return [(0, 1 - d), (1, d)]
    square, cube = d * d, d * d * d
    return [(-1, 2 * square - d - cube), (0, 1 - 2 * square + cube), (1, d + square - cube), (2, cube - square)]


def _filled(total: Tensor, inside: Tensor, fill: Tensor) -> Tensor:
    """(n, C, H, W) float32 -> uint8, with the fill colour where (n, H, W) `inside` is False."""
    kept = inside.float()[:, None]  # by arithmetic: torch.where with a broadcast mask is ten times slower on a CPU
    return total.add_(NUDGE).clamp_(0, 255).mul_(kept).add_(fill[:, None, None] * (1 - kept)).byte()


def _shift_rows(images: Tensor, shift: Tensor, kernel: Kernel, fill: Tensor) -> Tensor:
    """Move row y by shift[n, y] columns, (n, H) float64."""
    n, c, h, w = images.shape
    whole = shift.floor()
    taps = _taps(kernel, (shift - whole).float()[:, None, :, None])
    first, last = taps[0][0], taps[-1][0]
    window = torch.arange(first, w + last, device=images.device)
    source = (whole.long()[:, :, None] + window).clamp_(0, w - 1)
    pixels = images.gather(3, source[:, None].expand(n, c, h, -1)).float()
    total = torch.zeros(n, c, h, w, device=images.device)
    for offset, weight in taps:
        total.addcmul_(weight, pixels[..., offset - first : offset - first + w])
    place = shift[:, :, None] + torch.arange(w, device=images.device) + 0.5
    return _filled(total, (place >= 0) & (place < w), fill)


def shear_x(images: Tensor, level: Tensor, sign: Tensor, kernel: Kernel, fill: Tensor) -> Tensor:
    """Move each row by up to 0.3 times its distance from the top."""
    rows = torch.arange(images.shape[2], device=images.device) + 0.5
    return _shift_rows(images, (level / 10 * 0.3 * sign)[:, 0] * rows, kernel, fill)


def shear_y(images: Tensor, level: Tensor, sign: Tensor, kernel: Kernel, fill: Tensor) -> Tensor:
    return shear_x(images.transpose(2, 3), level, sign, kernel, fill).transpose(2, 3)


def translate_x(images: Tensor, level: Tensor, sign: Tensor, kernel: Kernel, fill: Tensor) -> Tensor:
    """By up to 45 % of the width."""
    shift = (level / 10 * 0.45 * sign)[:, 0] * images.shape[3]
    return _shift_rows(images, shift.expand(-1, images.shape[2]), kernel, fill)


def translate_y(images: Tensor, level: Tensor, sign: Tensor, kernel: Kernel, fill: Tensor) -> Tensor:
    return translate_x(images.transpose(2, 3), level, sign, kernel, fill).transpose(2, 3)


def rotate(images: Tensor, level: Tensor, sign: Tensor, kernel: Kernel, fill: Tensor) -> Tensor:
    """About the centre, by up to 30 degrees."""
    n, c, h, w = images.shape
    angle = torch.deg2rad(level / 10 * 30 * sign)
    cos, sin = angle.cos(), angle.sin()
    x = torch.arange(w, device=images.device) + 0.5 - w / 2
    y = (torch.arange(h, device=images.device) + 0.5 - h / 2)[:, None]
    source_x, source_y = cos * x - sin * y + w / 2, sin * x + cos * y + h / 2
    inside = (source_x >= 0) & (source_x < w) & (source_y >= 0) & (source_y < h)
    column, row = (source_x - 0.5).floor(), (source_y - 0.5).floor()
    across = _taps(kernel, (source_x - 0.5 - column).float()[:, None])
    down = _taps(kernel, (source_y - 0.5 - row).float()[:, None])
    columns = [(column.long() + offset).clamp_(0, w - 1) for offset, _ in across]
    flat, total = images.flatten(2), torch.zeros(n, c, h, w, device=images.device)
    for offset, weight in down:
        line, first = torch.zeros_like(total), (row.long() + offset).clamp_(0, h - 1) * w
        for at, (_, share) in zip(columns, across, strict=True):
            pixels = flat.gather(2, (first + at).view(n, 1, -1).expand(n, c, -1))
            line.addcmul_(share, pixels.view(n, c, h, w).float())
        total.addcmul_(weight, line)
    return _filled(total, inside, fill)


TABLES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "PosterizeIncreasing": posterize_increasing,
    "SolarizeIncreasing": solarize_increasing,
    "SolarizeAdd": solarize_add,
    "ContrastIncreasing": contrast_increasing,
    "BrightnessIncreasing": brightness_increasing,
}
BLENDS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ColorIncreasing": color_increasing,
    "SharpnessIncreasing": sharpness_increasing,
}
GEOMETRY: dict[str, Callable[[Tensor, Tensor, Tensor, Kernel, Tensor], Tensor]] = {
    "Rotate": rotate,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateXRel": translate_x,
    "TranslateYRel": translate_y,
}
OPERATIONS = (*TABLES, *BLENDS, *GEOMETRY)


def apply(name: str, images: Tensor, level: Tensor, sign: Tensor, kernel: Kernel, fill: Tensor) -> Tensor:
    """Apply one operation to (n, C, H, W) uint8; level, sign: (n,) float64, fill: (C,) uint8."""
    level, sign = level[:, None, None], sign[:, None, None]
    if name in GEOMETRY:
        return GEOMETRY[name](images, level, sign, kernel, fill)
    if name in BLENDS:
        return BLENDS[name](images, level, sign)
    n, c, h, w = images.shape
    tables = TABLES[name](images, level, sign).expand(n, c, 256)
    return tables.gather(2, images.flatten(2).long()).view(n, c, h, w)


# RandAugment ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RandAugment:
    """timm's RandAugment with its increasing operations, drawn with replacement.

    Each of `layers` draws picks one of the 15 operations, and applies it with `probability`, at a
    magnitude drawn about `magnitude` and kept between 0 and 10.
    """

    magnitude: float = 10.0
    deviation: float = 0.0
    layers: int = 2
    probability: float = 0.5

    @classmethod
    def parse(cls, text: str) -> RandAugment:
        """Read timm's words, such as rand-m9-mstd0.5-inc1. Raises ValueError."""
        sections = [re.fullmatch(r"(m|mstd|n|p|inc)(\d+(?:\.\d+)?)", section) for section in text.split("-")[1:]]
        given = {section[1]: float(section[2]) for section in sections if section}
        if not text.startswith("rand-") or None in sections or given.get("inc") != 1:
            raise ValueError(f"policy is {text!r}; legal: rand with sections m, mstd, n, p, and inc1; write it so")
        return cls(given.get("m", 10), given.get("mstd", 0), int(given.get("n", 2)), given.get("p", 0.5))

    def __call__(self, images: Tensor, keys: Keys, kernel: Kernel | Literal["random"], fill: Tensor) -> Tensor:
        """(N, C, H, W) uint8 -> the same; fill: (C,) uint8."""
        u = keys.uniform(POLICY, 6 * self.layers).view(len(images), self.layers, 6)
        operation = below(u[..., 0], len(OPERATIONS)).where(u[..., 1] <= self.probability, -1)
        level = (self.magnitude + self.deviation * normal(u[..., 2], u[..., 3])).clamp(0, 10)
        sign = torch.where(u[..., 4] > 0.5, -1.0, 1.0).double()
        bucket = 2 * operation + (u[..., 5] < {"bilinear": 0, "random": 0.5, "bicubic": 1}[kernel])
        level, sign = to_device(level, images), to_device(sign, images)
        for layer in range(self.layers):
            images = self._layer(images, bucket[:, layer], level[:, layer], sign[:, layer], fill)
        return images

    @staticmethod
    def _layer(images: Tensor, bucket: Tensor, level: Tensor, sign: Tensor, fill: Tensor) -> Tensor:
        """Sort the samples by their bucket, change each run of them, and put them back in their order."""
        order = bucket.argsort(stable=True)
        numbers, counts = (values.tolist() for values in bucket.unique(return_counts=True))
        there, back = to_device(order, images), to_device(order.argsort(), images)
        images, level, sign = (x.index_select(0, there) for x in (images, level, sign))
        changed = []
        for number, x, m, s in zip(numbers, images.split(counts), level.split(counts), sign.split(counts), strict=True):
            name, kernel = OPERATIONS[number // 2], KERNELS[number % 2]
            changed.append(apply(name, x, m, s, kernel, fill) if number >= 0 else x)
        return torch.cat(changed).index_select(0, back)


def to_device(values: Tensor, images: Tensor) -> Tensor:
    """Bring what the host drew to the images, without waiting for the device."""
    return (values.pin_memory() if images.is_cuda else values).to(images.device, non_blocking=True)


# Erasing --------------------------------------------------------------------------------------------------------------

ERASED_AREA, ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)


def erase(images: Tensor, keys: Keys, probability: float) -> Tensor:
    """Fill a rectangle of some samples with normal noise, each pixel its own: (N, C, H, W) float32, in place."""
    u = keys.uniform(ERASING, 2 * ATTEMPTS + 3)
    height, width = images.shape[2:]
    # Never the whole height or width.
    boxes, fits = random_boxes(u[:, 1:], (height, width), ERASED_AREA, ERASED_RATIO, (height - 1, width - 1))
    chosen = (fits & (u[:, 0] <= probability)).nonzero()[:, 0]
    areas = boxes.height[chosen] * boxes.width[chosen]
    sample = chosen.repeat_interleave(areas)
    at = torch.arange(len(sample)) - (areas.cumsum(0) - areas).repeat_interleave(areas)  # in the box, row by row
    y, x = boxes.top[sample] + at // boxes.width[sample], boxes.left[sample] + at % boxes.width[sample]
    sample, pixel = to_device(sample, images), to_device(y * width + x, images)
    images.view(*images.shape[:2], -1)[sample, :, pixel] = _noise(keys.to(images), sample, pixel)[:, : images.shape[1]]
    return images


def _noise(keys: Keys, sample: Tensor, pixel: Tensor) -> Tensor:
    """(P,) samples and pixels -> (P, 3) normal numbers, float32, by Box and Muller's method."""
    a, b, c, d = (unit(word).float() for word in keys.words(NOISE, pixel, sample))
    first, second, angle = _radius(a), _radius(c), 2 * math.pi * b
    return torch.stack((first * angle.cos(), first * angle.sin(), second * (2 * math.pi * d).cos()), 1)


# All of it ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Crop, flip, policy, normalization, erasing, in this order: (N, C, H, W) uint8 -> (N, C, size, size) float32.

    mean, std: a value a channel, of pixels in 0..1. crop: "resized" cuts a box of `scale` of the
    area and of `ratio` and resizes it; "padded" takes a window of the image with a border of `padding`
    pixels; with "padded" and "none" images come at `size`. kernel: of every resize and rotation;
    "random" lets each operation of the policy draw it, and resizes by the bilinear one.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: Literal["resized", "padded", "none"] = "resized"
    padding: int = 4
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    kernel: Kernel | Literal["random"] = "bilinear"
    flip: float = 0.5
    policy: RandAugment | None = None
    erasing: float = 0.0

    @torch.no_grad()
    def __call__(self, images: Tensor, keys: Keys) -> Tensor:
        images = self._cropped(images, keys, keys.uniform(FLIP, 1)[:, 0] < self.flip)
        if self.policy:
            fill = torch.tensor([min(255, round(255 * m)) for m in self.mean], dtype=torch.uint8)
            images = self.policy(images, keys, self.kernel, to_device(fill, images))
        pixels = normalize(images, self.mean, self.std)
        return erase(pixels, keys, self.erasing) if self.erasing else pixels

    def _cropped(self, images: Tensor, keys: Keys, flipped: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if self.crop == "resized":
            boxes = crop_boxes(keys, (height, width), self.scale, self.ratio)
            return resized_crop(
                images, boxes, flipped, self.size, "bicubic" if self.kernel == "bicubic" else "bilinear"
            )
        if (height, width) != (self.size, self.size):
            legal = f"legal: {self.size} x {self.size}, as crop is {self.crop!r}; resize them"
            raise ValueError(f"images are {height} x {width}; {legal}")
        padding = self.padding if self.crop == "padded" else 0
        corner = below(keys.uniform(CROP, 2), 2 * padding + 1)
        return padded_crop(images, corner[:, 0], corner[:, 1], flipped, padding)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels 0..255 -> float32 of zero mean and unit deviation."""
    center, scale = (to_device(torch.tensor(values)[:, None, None], images) for values in (mean, std))
    return images.float().div_(255).sub_(center).div_(scale)
