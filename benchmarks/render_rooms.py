"""How many rooms a processor second renders, stage by stage, in one process with one thread.

    python benchmarks/render_rooms.py --rooms 10 --size 192x256 --quality default

Prints one JSON line. Seconds are processor time of this process (``time.process_time``), so that other load
on the machine matters little. The first room is not counted: it compiles the kernels.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from collections import defaultdict

import numpy as np

from plait.data.rooms.assembly import assemble
from plait.data.rooms.build import QUALITIES, encode_labels
from plait.data.rooms.camera import views
from plait.data.rooms.labels import RayCaster
from plait.data.rooms.layout import Room
from plait.data.rooms.render import Renderer, fastest_variant, versions


class Stages:
    """Adds up the processor time since the last mark under a name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._last = time.process_time()

    def mark(self, name: str) -> None:
        now = time.process_time()
        self.seconds[name] += now - self._last
        self._last = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rooms", type=int, default=10)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--size", default="192x256")
    parser.add_argument("--quality", choices=list(QUALITIES), default="default")
    parser.add_argument("--variant", choices=["llvm_ad_rgb", "scalar_rgb"], default=None)
    arguments = parser.parse_args()
    height, width = (int(side) for side in arguments.size.split("x"))
    sampling = QUALITIES[arguments.quality]
    variant = arguments.variant or fastest_variant()
    renderer = Renderer(variant)
    images = 0
    stages = Stages()
    for number in range(arguments.rooms + 1):
        if number == 1:  # the first room has warmed everything up
            images, stages = 0, Stages()
        room = Room([0, number, 0])
        stages.mark("layout")
        scene = assemble(room)
        stages.mark("assembly")
        caster = RayCaster(scene)
        cameras = views(room, np.random.default_rng([0, number, 0, 1]), arguments.views, caster.labels)
        stages.mark("views")
        prepared = renderer.scene(scene)
        stages.mark("scene")
        for camera in cameras:
            labels = caster.labels(camera, (height, width))
            stages.mark("labels")
            renderer.picture(
                prepared, camera, labels, samples=sampling.samples, bounces=sampling.bounces, seed=number
            )
            stages.mark("picture")
            encode_labels(labels, scene.parents)
            stages.mark("encoding")
            images += 1
    total = sum(stages.seconds.values())
    print(
        json.dumps(
            {
                "images": images,
                "images per CPU-second": round(images / total, 2),
                "CPU-seconds per image": round(total / images, 3),
                "stages": {name: round(spent / images, 3) for name, spent in stages.seconds.items()},
                "peak memory MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "size": [height, width],
                "quality": arguments.quality,
                "variant": variant,
                "machine": platform.machine(),
                "versions": versions(),
            }
        )
    )


if __name__ == "__main__":
    main()
