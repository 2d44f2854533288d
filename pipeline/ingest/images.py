"""Encoded images into uint8 arrays: the header is checked before a pixel is decoded."""

import io
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.config import DataError, Spec, neutral

MAX_PIXELS = 16_000_000
MAX_IMAGE_BYTES = 32_000_000
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")
_MODES = {"rgb": "RGB", "grey": "L"}
_CONVERTIBLE = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}


class ImageFormat(Spec):
    """How every image of a data set ends up: colours and size."""

    mode: Literal["rgb", "grey"] = "rgb"
    size: int | None = neutral(None, ge=1, le=2048)  # side after resizing and centre crop; None: as stored
    resample: Literal["lanczos", "bicubic", "bilinear", "box"] = "lanczos"
    convert: bool = neutral(False)  # accept other colour modes and convert them

    @property
    def channels(self) -> int:
        return 3 if self.mode == "rgb" else 1


def decode_image(payload: bytes, image_format: ImageFormat, where: str) -> np.ndarray:
    """Pixels of one encoded image, uint8 `(C, H, W)`.

    The shorter side is resized to `image_format.size` (never through JPEG draft mode, which changes pixels), then the
    centre square is taken.

    Args:
        payload: PNG, JPEG, WebP, BMP or PPM file.
        image_format: expected mode and size.
        where: file and member, for messages.

    Raises:
        DataError: damaged, animated, more than 16 MP or 32 MB, or of another colour mode.
    """
    if len(payload) > MAX_IMAGE_BYTES:
        raise DataError(f"{where}: {len(payload)} bytes, more than the limit of {MAX_IMAGE_BYTES} for one image")
    try:
        with Image.open(io.BytesIO(payload), formats=_FORMATS) as image:
            _check_header(image, image_format, where)
            image.load()
            wanted = _MODES[image_format.mode]
            pixels = image if image.mode == wanted else image.convert(wanted)
            if image_format.size is not None:
                pixels = _resized(pixels, image_format.size, image_format.resample)
            array = np.asarray(pixels, dtype=np.uint8)
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise DataError(f"{where}: more than the limit of {MAX_PIXELS} pixels") from None
    except UnidentifiedImageError:
        raise DataError(f"{where}: not an image of an accepted format ({', '.join(_FORMATS)})") from None
    except Exception as error:  # decoders raise many types on damaged bytes; all mean the same here
        raise DataError(f"{where}: the image is damaged ({type(error).__name__}: {error})") from None
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _check_header(image: Image.Image, image_format: ImageFormat, where: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(f"{where}: {width} x {height} pixels, more than the limit of {MAX_PIXELS}")
    if getattr(image, "n_frames", 1) != 1:
        raise DataError(f"{where}: an animated image; only single images are accepted")
    wanted = _MODES[image_format.mode]
    if image.mode == wanted:
        return
    if not image_format.convert:
        raise DataError(f"{where}: colour mode {image.mode}, expected {wanted}; set `convert: true` to convert")
    if image.mode not in _CONVERTIBLE:
        raise DataError(f"{where}: colour mode {image.mode} cannot be converted without loss of range")


def _resized(image: Image.Image, size: int, resample: str) -> Image.Image:
    width, height = image.size
    shorter = min(width, height)
    if shorter != size:
        width, height = max(round(width * size / shorter), size), max(round(height * size / shorter), size)
        image = image.resize((width, height), _FILTERS[resample])
    if (width, height) == (size, size):
        return image
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
