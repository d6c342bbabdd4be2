"""Random changes of a training slice: one warp of image and mask, then the image's intensities.

Every change is a pure function of its drawn numbers. They are drawn in one fixed order,
used or not, so a slice depends on its generator and the settings alone.
"""

import numpy as np

from jaxseg.config import Augment
from jaxseg.imaging import augment_contrast, augment_shape, geometry, intensity, slice_draws


def augment_slice(
    record: dict,
    rng: np.random.Generator,
    image_size: tuple[int, int],
    crop_to_head: bool,
    config: Augment,
) -> dict[str, np.ndarray]:
    """Return a randomly changed slice on the training grid.

    Args:
        record: as for `geometry.prepare_slice`; left as it is.
        rng: the only source of chance; advanced.
        image_size: (h, w) of the training grid, pixels.
        crop_to_head: fit the head's box instead of the whole slice.
        config: probabilities and ranges.

    Returns:
        "image" [h, w, C] float32 and "mask" [h, w, 1] uint8 {0, 1}; exactly those of
        `geometry.prepare_slice` when every probability is 0.
    """
    channels = record["image"].shape[-1]
    uniform = rng.random(slice_draws.count(image_size, channels, config))
    numbers = slice_draws.draw(uniform, image_size, channels, config)
    where = geometry.record_matrix(record, image_size, crop_to_head)
    where = augment_shape.moved_matrix(where, numbers, image_size)
    if numbers["nodes"].any():
        spacing = config.elastic_smoothness * max(image_size)
        where = augment_shape.bent(where, numbers["nodes"], image_size, spacing)
    moved = geometry.warp_record(record, where, image_size, config.cubic)
    dark = intensity.dark_level(record["stats"])
    image = augment_contrast.change_intensity(moved["image"], numbers, dark)
    if numbers["noise_std"] > 0:  # last: only it draws more
        image = augment_contrast.noise(image, numbers["noise_std"], rng)
    return {"image": image, "mask": moved["mask"]}
