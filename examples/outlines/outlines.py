"""A modality of your own in one file: outlines, where depth jumps. It is computed from depth maps.

docs/add_modality.md teaches it to a trained model.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import laplace, maximum_filter

from open4m.modalities.edge_maps import EdgeMap


@dataclass(frozen=True, kw_only=True)
class Outlines(EdgeMap):
    """A value is uint8 (H, W): 0 where depth is smooth, 255 where it jumps by a tenth or more, in lines of 3 pixels."""

    def derive(self, source: np.ndarray) -> np.ndarray:
        jump = np.abs(laplace(np.log(np.maximum(source, 1e-3)), mode="nearest"))  # 0 on planes, slanted ones too
        return (255 * np.clip(maximum_filter(jump, 3) / 0.1, 0, 1)).round().astype(np.uint8)


MODALITY = Outlines(
    name="outlines",
    description="outlines of things, where depth jumps",
    extension="outlines.png",
    source="depth",
    channels=1,
    loss="mse",
    resample="linear",
    normalization="fit",
    error_unit="of 255",
)
