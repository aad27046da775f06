"""Figures as printed in A. Fontanella's thesis, to stand beside ours; ours never depend on them."""

THESIS_HEADING = "thesis (real data)"
# Fractions: table, measure, row of the table.
THESIS = {
    "Table 4.2": {
        "accuracy": {"ViT of chapter 4": 0.58, "Swin": 0.60, "ResNet-18": 0.64, "ResNet-50": 0.66, "MTL": 0.72}
    },
    "Table 5.1, IST-3": {
        "accuracy": {
            "baseline": 0.7139,
            "SMIC": 0.7085,
            "SalClassNet": 0.6943,
            "HSM": 0.7138,
            "SpAtt": 0.7096,
            "SeAtt": 0.7123,
            "ViT": 0.5787,
            "ACAT": 0.7255,
        }
    },
    "Table 5.1, MosMed": {
        "accuracy": {
            "baseline": 0.6771,
            "SMIC": 0.6927,
            "SalClassNet": 0.6250,
            "HSM": 0.6771,
            "SpAtt": 0.6667,
            "SeAtt": 0.6771,
            "ViT": 0.6667,
            "ACAT": 0.7084,
        }
    },
    "Table 6.1, BraTS": {
        "dice": {
            "f-AnoGAN": 0.545,
            "CG": 0.650,
            "CFG": 0.631,
            "AnoDDPM": 0.494,
            "AutoDDPM": 0.655,
            "DenoisingAE": 0.681,
            "Dif-fuse": 0.699,
            "Dif-fuse, Algorithm 2": 0.699,
            "Dif-fuse, Grad-CAM masks": 0.539,
            "Dif-fuse, gradient masks": 0.576,
            "ACAT": 0.591,
            "DDPM": 0.581,
            "DDIM-DDPM": 0.616,
            "DDIM": 0.498,
            "DDPM-DDIM": 0.677,
            "RePaint": 0.649,
        }
    },
    "Table 6.1, WMH": {
        "dice": {
            "f-AnoGAN": 0.172,
            "CG": 0.468,
            "CFG": 0.422,
            "AnoDDPM": 0.151,
            "AutoDDPM": 0.503,
            "DenoisingAE": 0.439,
            "Dif-fuse": 0.569,
            "Dif-fuse, Algorithm 2": 0.569,
            "ACAT": 0.530,
            "DDPM": 0.475,
            "DDIM-DDPM": 0.498,
            "DDIM": 0.495,
            "DDPM-DDIM": 0.487,
            "RePaint": 0.532,
        }
    },
}
# Tables in which the figures of a data set stand; the first that has the row counts.
CLASSIFICATION_COHORTS = {"ist3": ("Table 5.1, IST-3", "Table 4.2"), "mosmed": ("Table 5.1, MosMed",)}
ANOMALY_COHORTS = {"brats": ("Table 6.1, BraTS",), "wmh": ("Table 6.1, WMH",)}
# Per cent of IST-3's scans whose map has its maximum in the territory of the lesion.
THESIS_POINTING_GAME = {
    "negative_counterfactual": 65.05,
    "gradient": 61.29,
    "latent_shift": 58.39,
    "integrated_gradients": 37.52,
    "grad_cam": 11.67,
    "grad_cam_plus_plus": 11.78,
    "score_cam": 9.90,
    "acat_own_classifier": 68.55,
}
