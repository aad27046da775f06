"""Is the head straight, and was the template registered at all (thesis Sec. 3.4.4)?

Two answers. Scan by scan: how well the warped template fits, and how far it was turned. For a cohort, as in the
thesis, the 3 x 3 matrices of all scans: three principal components, clustered by a Gaussian mixture. The mixture
judges pose, not fit, and somebody has to say which clusters are bad; here that is a rule.
"""

from dataclasses import dataclass

import numpy as np

from .exclusion import Exclusion
from .registration import Registration, rotation_angle

MIN_BRAIN_ML = 700  # phantoms have none; whole heads have 1,100 to 1,600 ml
# Fitted on simulated poses of one real and 14 synthetic heads, and on a synthetic disk of 204 series: fits that
# succeeded have at least 1.188 and 0.91, fits that failed at most 1.185 and 0.88. Fit them again on your own scans.
MIN_NMI, MIN_DICE = 1.187, 0.90
STRETCH = (0.7, 1.5)  # allowed singular values: no head differs more from the template's size
MAX_ROTATION_DEG = 30
NUM_COMPONENTS, NUM_CLUSTERS = 3, 10
MIN_COHORT = 100


def check_registration(
    registration: Registration | None,
    min_nmi: float = MIN_NMI,
    min_dice: float = MIN_DICE,
    max_rotation_deg: float = MAX_ROTATION_DEG,
) -> tuple[Exclusion | None, str]:
    """Why a scan is left out because of its brain, its fit or its pose, with a sentence; (None, "") if it is kept."""
    if registration is None:
        return Exclusion.NO_BRAIN, "No soft tissue is enclosed by bone."
    if registration.brain_ml < MIN_BRAIN_ML:
        return Exclusion.NO_BRAIN, f"The brain measures {registration.brain_ml:.0f} ml, less than {MIN_BRAIN_ML}."
    if registration.determinant <= 0:
        return Exclusion.REGISTRATION_FAILED, "The fitted template is a mirror image."
    low, high = registration.singular_values.min(), registration.singular_values.max()
    if low < STRETCH[0] or high > STRETCH[1]:
        return Exclusion.REGISTRATION_FAILED, f"The template was stretched by {low:.2f} to {high:.2f}."
    if registration.nmi < min_nmi:
        return Exclusion.REGISTRATION_FAILED, f"The normalised mutual information is {registration.nmi:.3f}."
    if registration.dice < min_dice:
        return Exclusion.REGISTRATION_FAILED, f"The brain and the warped template overlap by {registration.dice:.2f}."
    if registration.rotation_deg > max_rotation_deg:
        return Exclusion.ILL_POSITIONED, f"The head is turned by {registration.rotation_deg:.0f} degrees."
    return None, ""


@dataclass(frozen=True)
class RegistrationQC:
    """Clusters of the poses of a cohort of N scans.

    `components` (N, 3): principal components of the flattened matrices; `explained_variance`: their share, [0, 1] (the
    thesis: 0.77); `labels` (N,): cluster of each scan; `rotation_deg` (K,): angle of each cluster's mean matrix;
    `failed` (K,): share of its scans that the scan-by-scan test rejects.
    """

    components: np.ndarray
    explained_variance: float
    labels: np.ndarray
    rotation_deg: np.ndarray
    failed: np.ndarray

    @classmethod
    def fit(
        cls, matrices: np.ndarray, kept: np.ndarray, num_clusters: int = NUM_CLUSTERS, seed: int = 0
    ) -> "RegistrationQC | None":
        """Cluster `matrices` (N, 3, 3); `kept` (N,) is True where `check_registration` lets a scan pass.

        None for a cohort of fewer than 100, too few for ten clusters: there the scan-by-scan test decides alone.
        """
        if len(matrices) < MIN_COHORT:
            return None
        from sklearn.decomposition import PCA  # here, since every worker imports this module and none needs these
        from sklearn.mixture import GaussianMixture

        pca = PCA(NUM_COMPONENTS, random_state=seed)
        components = pca.fit_transform(np.reshape(matrices, (-1, 9)))
        labels = GaussianMixture(num_clusters, n_init=3, random_state=seed).fit_predict(components)
        _, labels = np.unique(labels, return_inverse=True)  # a component of the mixture may win no scan
        clusters = [labels == label for label in range(labels.max() + 1)]
        rotation = np.array([rotation_angle(matrices[members].mean(0)) for members in clusters])
        failed = np.array([1 - kept[members].mean() for members in clusters])
        return cls(components, float(pca.explained_variance_ratio_.sum()), labels, rotation, failed)

    @property
    def well_positioned(self) -> np.ndarray:
        """(N,) bool: clusters turned by at most 30 degrees, most of whose scans pass on their own. Our rule."""
        return ((self.rotation_deg <= MAX_ROTATION_DEG) & (self.failed <= 0.5))[self.labels]
