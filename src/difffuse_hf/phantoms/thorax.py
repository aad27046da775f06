"""A computed chest for synthetic lung CT: organs, ribs and spine in closed form, one axial slice at a time.

No label map of a real thorax is at hand, so the anatomy is a drawing. Distances are in mm of an average chest, x to
the left, y to the back, z up, z = 0 at the lowest recess of the lungs and z = `HEIGHT` at their apex; every chest is
scaled and warped by its caller. Shapes are given by their signed distance, positive inside, and painted one over the
other. Proportions and Hounsfield units are our choice, textbook values rounded.
"""

import math
from dataclasses import dataclass

import numpy as np

HEIGHT, HALF_WIDTH, HALF_DEPTH = 250.0, 132.0, 92.0  # of the space between the ribs
AIR, LUNG, FAT, MUSCLE, BLOOD, LIVER = -1000.0, -865.0, -105.0, 55.0, 42.0, 58.0  # HU, no contrast agent
CORTICAL, SPONGY = 500.0, 190.0
OUTSIDE = -80.0  # signed distance where a shape does not reach

UPRIGHT_VESSELS = (  # from z, to z, x, y, radius
    (100, 176, -13, -24, 16),  # ascending aorta
    (112, 212, -27, -24, 9.5),  # superior vena cava
    (184, 400, -19, -14, 6),  # to the head and the arms
    (184, 400, 1, -20, 5),
    (184, 400, 19, -4, 5.5),
    (184, 400, -31, -26, 8),
    (184, 400, 27, -28, 7),
)
VESSELS = (  # from (x, y, z), to (x, y, z), radius
    ((-12, -22, 177), (19, 36, 177), 13),  # arch of the aorta
    ((14, -38, 112), (18, -28, 140), 14.5),  # pulmonary trunk
    ((14, -24, 140), (-44, 2, 134), 10),  # pulmonary arteries
    ((18, -26, 144), (46, 8, 144), 10),
    ((-14, -4, 108), (-46, 4, 112), 8),  # pulmonary veins
    ((16, -2, 108), (46, 8, 112), 8),
)
BRONCHI = (((-4, 2, 150), (-42, 4, 122), 7), ((3, 2, 150), (48, 8, 118), 6))


@dataclass(frozen=True)
class Chest:
    """What differs between people, besides scale and warp; lengths in mm, densities in HU."""

    fat_mm: float  # under the skin, at the side
    muscle_mm: float
    female: bool
    heart: float  # size, 1 on average
    domes_mm: tuple[float, float]  # height of the right and the left half of the diaphragm
    rib_phase: float
    lung_hu: float
    mediastinum_hu: float  # of its fat
    gas_mm: float  # depth of the gas in the stomach, 0 for none


def draw_chest(rng: np.random.Generator) -> Chest:
    right = rng.uniform(72, 98)
    return Chest(
        fat_mm=rng.uniform(7, 26),
        muscle_mm=rng.uniform(8, 15),
        female=bool(rng.random() < 0.56),  # as in MosMedData
        heart=rng.uniform(0.88, 1.12),
        domes_mm=(right, right - rng.uniform(5, 18)),
        rib_phase=rng.random(),
        lung_hu=LUNG + rng.uniform(-25, 35),
        mediastinum_hu=rng.uniform(-105, -50),
        gas_mm=float(rng.choice([0.0, rng.uniform(15, 35)])),
    )


def draw_slice(
    chest: Chest, x: np.ndarray, y: np.ndarray, z: np.ndarray, sharpness: float
) -> tuple[np.ndarray, np.ndarray]:
    """One axial slice, without the vessels and bronchi inside the lungs.

    Args:
        x, y, z: coordinates (H, W) of its pixels in mm of the average chest, float32.
        sharpness: pixels a mm; edges are as soft as one pixel.

    Returns:
        HU (H, W) float32, and the signed distance in mm from the lungs' surface, positive inside.
    """
    picture = _Slice(chest, x, y, z, sharpness)
    picture.paint_wall()
    picture.paint_ribs()
    picture.paint_abdomen()
    taken = picture.paint_mediastinum()
    lung = picture.paint_lungs(taken)
    picture.paint_bones()
    return picture.hu, lung


class _Slice:
    def __init__(self, chest, x, y, z, sharpness):
        self.chest, self.x, self.y, self.z, self.sharpness = chest, x, y, z, sharpness
        self.hu = np.full(x.shape, AIR, np.float32)
        self.middle = float(z.mean())
        self.height = self.middle / HEIGHT
        self.shoulders = _ramp(self.height, 0.62, 1.0)
        self.side = np.abs(x)
        taper = np.clip((z / HEIGHT - 0.25) / 0.75, 0, 1)  # towards the apex, which lies farther back
        centre_y = 14 * taper**2
        width = HALF_WIDTH * np.sqrt(np.maximum(1 - taper**2.6, 1e-3))
        depth = HALF_DEPTH * np.sqrt(np.maximum(1 - 0.8 * taper**2.2, 0.05))
        self.cavity = np.where(z < HEIGHT, _squircle(x, y - centre_y, width, depth, 0.72), OUTSIDE)
        self.theta = np.arctan2(self.side, y - centre_y)  # around it: 0 at the back, pi in front
        self.front_y = centre_y - depth
        self.spine_y = centre_y + depth - 22 + 10 * self.shoulders
        self.above = self._above_diaphragm()

    def paint(self, distance, value):
        self.hu += np.clip(distance * self.sharpness + 0.5, 0, 1) * (value - self.hu)

    def paint_bone(self, distance, rim_mm):
        self.paint(distance, CORTICAL)
        self.paint(distance - rim_mm, SPONGY)

    def paint_wall(self):
        """Skin, fat, breasts and muscles."""
        chest, x, y, z, side, theta = self.chest, self.x, self.y, self.z, self.side, self.theta
        outline = _squircle(
            x,
            y - 6 - 8 * self.shoulders,
            HALF_WIDTH + 14 + chest.muscle_mm + chest.fat_mm + 14 * self.shoulders,
            HALF_DEPTH + 20 + chest.muscle_mm + 0.7 * chest.fat_mm - 26 * self.shoulders,
            0.78,
        )
        outline -= 9 * np.exp(-((x / 14) ** 2)) * (y > 0)  # furrow along the spine
        gland = None
        if chest.female:
            breast = _ellipsoid(side - 78, y + HALF_DEPTH + 18, z - 105, 58, 12 + 0.9 * chest.fat_mm, 62)
            outline = np.maximum(outline, breast)
            gland = breast - 9 - 5 * np.sin(x / 4.3 + y / 7) - 4 * np.sin(y / 3.1 - z / 5)
        self.paint(outline, 15.0)
        self.paint(outline - 2, FAT)
        if gland is not None:
            self.paint(np.minimum(gland, outline - 6), 30.0)

        ribs = self.cavity + 15
        pectoral = 10 * _ramp(self.height, 0.4, 0.6) * np.exp(-((theta - 2.45) ** 2) / 0.12)
        back = 9 * np.exp(-((theta - 0.9) ** 2) / 0.35)
        muscle = ribs + chest.muscle_mm * (0.35 + 0.65 * _ramp(self.height, 0.1, 0.5)) + pectoral + back
        muscle = np.maximum(muscle, outline - chest.fat_mm - 5 - 75 * (1 - self.shoulders))
        erector = 24 - np.hypot((side - 26) * 0.9, y - self.spine_y - 33)
        muscle = np.minimum(np.maximum(muscle, erector), outline - 4)
        self.paint(muscle, MUSCLE)
        for depth_mm, lobes in ((7, 9), (24, 5), (47, 7)):  # fat between the muscles
            plane = 1.4 * np.sin(theta * lobes + z / 17) - np.abs(muscle - depth_mm - 5 * np.sin(theta * 5 + z / 25))
            self.paint(np.minimum(plane, np.minimum(muscle - 2, -ribs - 3)), FAT)
        self.paint(np.minimum(1.2 - np.abs(ribs + 1.5), muscle - 1), FAT)

    def paint_ribs(self):
        """Evenly spaced, they run down from the back to the front and end in cartilage; the lower ones are short."""
        fall = 92 * (self.theta / math.pi) ** 1.25
        turn = (self.z + fall) / 25.5 + self.chest.rib_phase
        number = np.rint(turn)
        rib = (1 - np.hypot((turn - number) * 25.5 / 6.4, (self.cavity + 7) / 4.6)) * 4.6
        bony = (self.theta > 0.2) & (self.theta < 1.9 + 0.85 * (number >= 4)) & (number > -1) & (self.z < HEIGHT + 8)
        self.paint_bone(np.where(bony, rib, OUTSIDE), 1.9)
        cartilage = (self.theta >= 2.75) & (number >= 4) & (self.side > 14) & (self.height < 0.8)
        self.paint(np.where(cartilage, rib, OUTSIDE), 105.0)
        self.paint(self.cavity + 3, MUSCLE)

    def paint_abdomen(self):
        x, y, z = self.x, self.y, self.z
        inside = np.minimum(self.cavity, -self.above - 3)
        self.paint(inside, FAT)
        edge = 30 - 0.4 * y - 0.004 * (y + 15) ** 2 - 0.25 * (80 - z)
        self.paint(np.minimum(inside, edge - x), LIVER)
        self.paint(_ellipsoid(x - 92, y - 38, z - 38, 38, 46, 52), 50.0)  # spleen
        stomach = np.minimum(_ellipsoid(x - 56, y + 16, z - 20, 50, 52, 56), inside - 2)
        self.paint(stomach, 40.0)
        self.paint(stomach - 4, 15.0)
        if self.chest.gas_mm:
            self.paint(np.minimum(stomach - 4, self.chest.gas_mm - 42 - y), AIR + 20)

    def paint_mediastinum(self):
        """Heart, vessels, oesophagus, trachea in their fat; returns the distance inside what the lungs leave to it."""
        x, y, z, height, size = self.x, self.y, self.z, self.height, self.chest.heart
        u, v, w = x - 20, y + 26, z - 84  # the long axis of the heart points to the left, the front and down
        axes = 0.68 * u - 0.58 * v - 0.45 * w, 0.65 * u + 0.76 * v, 0.34 * u - 0.29 * v + 0.89 * w
        heart = _ellipsoid(*axes, 70 * size, 50 * size, 52 * size)
        front = np.clip((-y - 20) / 60, 0, 1)
        rear = np.clip((y - 4) / 30, 0, 1) * (1 - _ramp(height, 0.6, 0.75))
        hilum = 9 * math.exp(-(((height - 0.55) / 0.12) ** 2))
        breadth = 17 + 8 * _ramp(height, 0.35, 0.5) + hilum + 8 * _ramp(height, 0.75, 0.95)
        narrow = 7 + 14 * _ramp(height, 0.7, 0.9)
        taken = breadth * (1 - front) * (1 - 0.6 * rear) + narrow * front - np.abs(x - 2)
        taken = np.maximum(taken, _ellipse(x, y - self.spine_y, 24, 26))
        taken = np.maximum(taken, heart + (9 if self.chest.fat_mm > 15 else 4))
        vessels = list(self._great_vessels())
        for vessel in vessels:
            taken = np.maximum(taken, vessel + 2.5)

        self.paint(np.minimum(np.minimum(taken, self.cavity + 2), self.above + 6), self.chest.mediastinum_hu)
        self.paint(np.minimum(heart, self.above + 8), BLOOD)
        groove = 1.2 - np.abs(0.5 * x + 0.8 * (y + 36) - 0.3 * (z - 84))  # fat between atria and ventricles
        self.paint(np.minimum(groove, np.minimum(heart, 14 - heart)), -60.0)
        for vessel in vessels:
            self.paint(vessel, BLOOD)
        oesophagus = 7 - np.hypot(x - 6, (y - self.spine_y + 32) * 1.3)
        self.paint(oesophagus, 38.0)
        self.paint(oesophagus - 5.5, -400.0)
        airways = list(self._airways())
        for lumen, wall_mm in airways:
            self.paint(lumen + wall_mm, 20.0)
            taken = np.maximum(taken, lumen + wall_mm)
        for lumen, _ in airways:  # after all walls: where they branch, there is none
            self.paint(lumen, AIR + 15)
        return taken

    def paint_lungs(self, taken):
        """What is left of the cavity; returns the distance inside."""
        x, y, z = self.x, self.y, self.z
        lung = np.minimum(np.minimum(self.cavity, -taken), self.above)
        self.paint(lung, self.chest.lung_hu + 0.27 * (y + 10))  # denser where it lies
        fissure = np.where(x < 0, z - 118 + 0.95 * (y - 8), z - 124 + y - 8) + 5 * np.sin(x / 23)
        self.paint(np.minimum(0.35 - 0.7 * np.abs(fissure), lung - 1), -690.0)
        return lung

    def paint_bones(self):
        x, side, y, z, spine_y = self.x, self.side, self.y, self.z, self.spine_y
        disc = np.abs((z / 23.5) % 1 - 0.5) < 0.12
        vertebra = _ellipse(x, y - spine_y, 18.5, 16)
        self.paint(vertebra, np.where(disc, 95, 420))
        self.paint(vertebra - 2, np.where(disc, 85, 170))
        transverse = _rod(side, y, (13, spine_y + 20), (30, spine_y + 30), 5.5)
        self.paint(np.where(np.abs((z / 23.5) % 1 - 0.05) < 0.3, transverse, OUTSIDE), 330.0)
        canal = np.hypot(x, y - spine_y - 22)
        self.paint(3.4 - np.abs(canal - 11.5), 430.0)
        self.paint(_rod(x, y, (0, spine_y + 34), (0, spine_y + 50), 3.8), 360.0)
        self.paint(9 - canal, 30.0)
        if 0.18 < self.height < 0.9:
            sternum = 17 + 12 * _ramp(self.height, 0.72, 0.85) - side
            self.paint_bone(np.minimum(sternum, 6 - np.abs(y - self.front_y + 9)), 1.6)
        if 0.4 < self.height < 1.02:
            blade = 2.6 + 3 * _ramp(self.height, 0.7, 0.9)
            scapula = _rod(side, y, (78, 92 - 14 * self.height), (132, 52 - 20 * self.height), blade)
            self.paint_bone(np.minimum(scapula, -self.cavity - 15), 1.7)
        self.paint_bone(_capsule(side, y, z, (22, -58, 0.9 * HEIGHT), (120, -20, 1.03 * HEIGHT), 6.5), 2.2)  # clavicle

    def _above_diaphragm(self):
        right, left = self.chest.domes_mm
        dome = right + (left - right) * np.clip(self.x / 40 + 0.5, 0, 1)
        outwards = self.side - 68
        across = np.maximum(outwards, 0) / (HALF_WIDTH - 56) + np.minimum(outwards, 0) / 120
        along = np.maximum(self.y + 22, 0) / (HALF_DEPTH + 24) + np.minimum(self.y + 22, 0) / 170
        return (self.z - dome * (1 - across**2 - along**2)) * 0.75  # the surface is oblique

    def _great_vessels(self):
        """Signed distances inside those that the slice may meet."""
        x, y, z = self.x, self.y, self.z
        bend = 20 - 10 * _ramp(1 - self.height, 0.55, 1.0)
        yield np.where(z < 176, 12.5 - np.hypot(x - bend, y - self.spine_y + 26), OUTSIDE)  # descending aorta
        for low, high, u, v, radius in UPRIGHT_VESSELS:
            if low - 15 < self.middle < high + 15:
                yield np.where((z > low) & (z < high), radius - np.hypot(x - u, y - v), OUTSIDE)
        for start, end, radius in VESSELS:
            if min(start[2], end[2]) - radius - 15 < self.middle < max(start[2], end[2]) + radius + 15:
                yield _capsule(x, y, z, start, end, radius)

    def _airways(self):
        """(signed distance inside the lumen, thickness of the wall) of the trachea and the main bronchi."""
        x, y, z = self.x, self.y, self.z
        if self.middle > 135:
            yield np.where(z > 150, 9 - np.hypot(x + 1, (y - 2 + 0.16 * (z - 150)) * 1.1), OUTSIDE), 1.8
        if 95 < self.middle < 175:
            for start, end, radius in BRONCHI:
                yield _capsule(x, y, z, start, end, radius), 1.6


def _ramp(value: float, low: float, high: float) -> float:
    """0 below `low`, 1 above `high`, smooth in between."""
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


def _squircle(x, y, width, depth, squareness):
    """Distance inside a rounded rectangle (Fernández Guasti's squircle), along the ray from its centre."""
    u, v = (x / width) ** 2, (y / depth) ** 2
    radius = np.sqrt((u + v + np.sqrt(np.maximum((u + v) ** 2 - 4 * squareness**2 * u * v, 0))) / 2 + 1e-6)
    return np.hypot(x, y) * (1 / radius - 1) + 1e-3


def _ellipse(x, y, a, b):
    return (1 - np.hypot(x / a, y / b)) * min(a, b)


def _ellipsoid(x, y, z, a, b, c):
    return (1 - np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)) * min(a, b, c)


def _capsule(x, y, z, start, end, radius):
    """Around a line in space."""
    a, b, c = (float(stop - begin) for begin, stop in zip(start, end))
    u, v, w = x - start[0], y - start[1], z - start[2]
    t = np.clip((u * a + v * b + w * c) / (a * a + b * b + c * c), 0, 1)
    return radius - np.sqrt((u - t * a) ** 2 + (v - t * b) ** 2 + (w - t * c) ** 2)


def _rod(x, y, start, end, radius):
    """Around a line in the slice; its ends may differ from pixel to pixel."""
    a, b = end[0] - start[0], end[1] - start[1]
    u, v = x - start[0], y - start[1]
    t = np.clip((u * a + v * b) / (a * a + b * b), 0, 1)
    return radius - np.hypot(u - t * a, v - t * b)
