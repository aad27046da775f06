"""Which pieces of an anomaly map count: those that the classifier's saliency points at."""

import numpy as np
from scipy.ndimage import generate_binary_structure


def salient_pieces(anomaly: np.ndarray, salient: np.ndarray) -> np.ndarray:
    """The anomaly map without the pieces in which nothing is salient, at any threshold at once.

        R ≥ h  in the connected pieces of  A ≥ h  that hold a salient voxel,  for every h > 0

    R is the grey-level reconstruction of A by dilation from the salient voxels (L. Vincent, IEEE Transactions on Image
    Processing 2(2), 1993). A mask is larger than what the saliency points at; what stands out by chance in the rest of
    it is a piece of its own, which this takes away. Beyond the thesis.

    Args:
        anomaly (`np.ndarray` of shape `(S, H, W)`): ≥ 0, of the slices of a scan in order.
        salient (`np.ndarray` of shape `(S, H, W)`): bool.

    Returns:
        `np.ndarray` of shape `(S, H, W)`: nowhere above the anomaly, and equal to it where a voxel is salient; pieces
        share faces.
    """
    from skimage.morphology import reconstruction

    seeds = np.where(salient, anomaly, 0)
    return reconstruction(seeds, anomaly, footprint=generate_binary_structure(3, 1)).astype(anomaly.dtype)
