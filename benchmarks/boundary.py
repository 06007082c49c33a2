"""The boundary F at 99 thresholds, beside SciPy's exact matching and scikit-image's thinning.

    python benchmarks/boundary.py [--repeats 5] [--images 16]

Each image is counted under the survey's protocol (uint8, from the threshold on, thinned, 0.0075 of the
diagonal) on one core after a warm-up, by plait and by what one would write without it: at each threshold
scikit-image's ``thin``, a k-d tree for the pairs in reach, and SciPy's least-cost full matching with a
column of its own for each predicted pixel. Both take turns in one run and must agree on every count. Then
``score_images`` runs over made-up images of PASCAL's size on two threads, and the time of PASCAL-Context's
5,105 validation images is extrapolated from that sample. Numbers go to ``benchmarks/boundary.json``.

The first image is the stored one of 240x320 (tests/data/edges); the others are made up here: ellipses and
rectangles, their boundary displaced, blurred and textured, and noise.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from pathlib import Path

import numpy as np
import scipy
import skimage
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import KDTree
from skimage.morphology import thin

from plait.metrics.boundary import BoundaryF, match_counts, score_images
from plait.metrics.boundary.labels import label_boundaries

HERE = Path(__file__).parent
DATA = HERE / "boundary.json"
STORED = HERE.parent / "tests" / "data" / "edges" / "p05_full_typical.npz"
DISTANCE = 0.0075
VALIDATION_IMAGES = 5105
PASCAL = (375, 500)


def made_up(size: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A prediction, uint8 ``[H, W]``, and its target, bool ``[1, H, W]``."""
    random = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width].astype(float)
    labels = np.zeros(size, dtype=np.int64)
    for label in range(1, 13):
        cy, cx = random.uniform(0, height), random.uniform(0, width)
        ry, rx = random.uniform(0.08, 0.3, 2) * height
        across, down = np.abs(x - cx) / rx, np.abs(y - cy) / ry
        inside = across**2 + down**2 < 1 if random.random() < 0.5 else np.maximum(across, down) < 0.8
        labels[inside] = label
    target = label_boundaries(labels)
    moved = [axis + 2 * smooth_noise(random, size, 12) for axis in (y, x)]
    strength = gaussian_filter(map_coordinates(target.astype(float), moved, order=1), 1.3)
    contrast = 1.8 * (1 + 0.5 * smooth_noise(random, size, 8))
    clutter = 0.07 * np.abs(smooth_noise(random, size, 1)) + 0.07 * smooth_noise(random, size, 5)
    value = contrast * strength + clutter.clip(0) + random.uniform(0, 0.08, size)
    return (255 * value.clip(0, 1)).astype(np.uint8), target[None]


def smooth_noise(random: np.random.Generator, size: tuple[int, int], scale: float) -> np.ndarray:
    """Gaussian noise of variance one that varies over so many pixels, ``[H, W]``."""
    noise = gaussian_filter(random.normal(size=size), scale)
    return noise / noise.std()


def matched_by_scipy(predicted: np.ndarray, target: np.ndarray, radius: float) -> int:
    """How many pixels the least-cost matching joins at one threshold."""
    rows, columns = np.argwhere(predicted), np.argwhere(target)
    if not len(rows) or not len(columns):
        return 0
    pairs = KDTree(rows).sparse_distance_matrix(KDTree(columns), radius, output_type="coo_matrix")
    used, row = np.unique(pairs.row, return_inverse=True)
    own, unmatched = np.arange(len(used)), math.ceil(100 * 100 * radius)
    costs = coo_array(
        (
            np.concatenate([np.rint(100 * pairs.data), np.full(len(own), float(unmatched))]) + 1,
            (np.concatenate([row, own]), np.concatenate([pairs.col, len(columns) + own])),
        ),
        shape=(len(own), len(columns) + len(own)),
    )
    return int((min_weight_full_bipartite_matching(costs.tocsr())[1] < len(columns)).sum())


def peer(prediction: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Matched and predicted pixels ``[99, 2]``, seconds of thinning and of matching."""
    radius = DISTANCE * math.hypot(*prediction.shape)
    found, thinning, matching = [], 0.0, 0.0
    for threshold in range(1, 100):
        started = time.perf_counter()
        lines = thin(prediction * 100 >= threshold * 255)
        thinned = time.perf_counter()
        found.append((matched_by_scipy(lines, target[0], radius), lines.sum()))
        thinning += thinned - started
        matching += time.perf_counter() - thinned
    return np.array(found), thinning, matching


def compared(prediction: np.ndarray, target: np.ndarray, repeats: int) -> dict[str, float]:
    """Seconds an image of both, medians of some turns."""
    prediction_int = prediction.astype(np.int64)
    ours, exact, thinning, matching = [], [], [], []
    found: dict[bool, np.ndarray] = {}
    for _ in range(repeats):
        for times, objective in ((ours, False), (exact, True)):
            started = time.perf_counter()
            counts = match_counts(
                prediction, target, "survey", max_distance=DISTANCE, exact_objective=objective
            )
            times.append(time.perf_counter() - started)
            found[objective] = counts
        theirs, thin_seconds, match_seconds = peer(prediction_int, target)
        thinning.append(thin_seconds)
        matching.append(match_seconds)
        if not all(np.array_equal(counts[:, 2:], theirs) for counts in found.values()):
            raise SystemExit("the counts differ from those of SciPy and scikit-image")
    total = float(np.median(np.add(thinning, matching)))
    return {
        "true_pixels": int(target.sum()),
        "predicted_pixels_a_threshold": float(theirs[:, 1].mean()),
        "plait_seconds": float(np.median(ours)),
        "plait_exact_objective_seconds": float(np.median(exact)),
        "skimage_thinning_seconds": float(np.median(thinning)),
        "scipy_matching_seconds": float(np.median(matching)),
        "times_faster": total / float(np.median(ours)),
    }


def whole_split(images: int) -> dict[str, float]:
    """Seconds of a sample on two threads, and the minutes of the whole split that follow from it."""
    sample = [made_up(PASCAL, 100 + seed) for seed in range(images)]
    metric = BoundaryF(protocol="survey", max_distance=DISTANCE)
    started, before = time.perf_counter(), time.process_time()
    score_images(sample, metric, workers=2)
    seconds, processor = time.perf_counter() - started, time.process_time() - before
    return {
        "sample_images": images,
        "sample_seconds": seconds,
        "sample_processor_seconds": processor,
        "extrapolated_minutes": VALIDATION_IMAGES * seconds / images / 60,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=16)
    options = parser.parse_args()
    with np.load(STORED) as stored:
        pairs = {"240x320, stored": (stored["pred_u8"], stored["gt"])}
    pairs["240x320, made up"] = made_up((240, 320), 0)
    pairs["375x500, made up"] = made_up(PASCAL, 1)
    started = time.perf_counter()
    match_counts(*pairs["240x320, stored"], "survey")
    first = time.perf_counter() - started
    load = os.getloadavg()[0]
    rows = {name: compared(*pair, options.repeats) for name, pair in pairs.items()}
    split = whole_split(options.images)
    found = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load:.1f}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "scikit-image": skimage.__version__,
        "repeats": options.repeats,
        "first_call_seconds": first,
        "images": rows,
        "pascal_context_validation": split,
    }
    DATA.write_text(json.dumps(found, indent=1) + "\n")
    print("| image, 99 thresholds | plait (s) | exact objective (s) | scikit-image + SciPy (s) | ratio |")
    print("|---|---:|---:|---:|---:|")
    for name, row in rows.items():
        theirs = f"{row['skimage_thinning_seconds']:.2f} + {row['scipy_matching_seconds']:.2f}"
        print(
            f"| {name} | {row['plait_seconds']:.3f} | {row['plait_exact_objective_seconds']:.3f} "
            f"| {theirs} | {row['times_faster']:.0f} |"
        )
    print(
        f"{split['sample_images']} images of 375x500 on two threads: {split['sample_seconds']:.2f} s "
        f"({split['sample_processor_seconds']:.2f} processor-s); extrapolated to {VALIDATION_IMAGES} images: "
        f"{split['extrapolated_minutes']:.0f} min"
    )


if __name__ == "__main__":
    main()
