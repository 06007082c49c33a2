"""Path tracing with Mitsuba 3 and denoising with Open Image Denoise.

Each process uses one thread; run several processes to use several cores. What keeps it fast and clean:
one mesh, one BSDF, one atlas and always four emitters, so that every room has the same kernels; emitters
of constant radiance (the picture on a pane or screen is put in afterwards, because a texture in an atlas
cannot be importance-sampled); a box filter, which leaves the noise of neighbouring pixels independent
for the denoiser.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from plait.data.rooms.assembly import EMITTERS, Assembly
from plait.data.rooms.camera import Camera
from plait.data.rooms.labels import RENDER_COMMAND, Labels
from plait.errors import MissingExtraError

Image = NDArray[np.float32]
Variant = Literal["llvm_ad_rgb", "scalar_rgb"]

DENOISER_FACTOR = 10
"""How many times more samples are taken when the denoiser is not installed."""

_PROBE = """
import mitsuba as mi
mi.set_variant("llvm_ad_rgb")
import drjit
drjit.set_thread_count(1)
triangle = mi.Mesh("t", 3, 1)
p = mi.traverse(triangle)
p["vertex_positions"] = [-1.0, -1, 0, 1, -1, 0, 0, 1, 0]
p["faces"] = [0, 1, 2]
p.update()
scene = mi.load_dict({"type": "scene", "shape": triangle, "light": {"type": "constant"},
    "sensor": {"type": "perspective",
               "to_world": mi.ScalarTransform4f().look_at([0, 0, 3], [0, 0, 0], [0, 1, 0]),
               "film": {"type": "hdrfilm", "width": 8, "height": 8}}})
drjit.eval(mi.render(scene, integrator=mi.load_dict({"type": "path"}), spp=1))
drjit.sync_thread()
"""


def require_renderer() -> None:
    """Checks that the renderer can be imported, without importing it.

    Raises:
        MissingExtraError: If mitsuba or embreex is not installed.
    """
    missing = [name for name in ("mitsuba", "embreex") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"Rendering rooms needs {' and '.join(missing)}, not installed here; run {RENDER_COMMAND}."
        )


def denoiser_installed() -> bool:
    """Whether pyoidn can be imported, without importing it."""
    return importlib.util.find_spec("pyoidn") is not None


@lru_cache
def fastest_variant() -> Variant:
    """``llvm_ad_rgb`` if a small picture renders with it, else ``scalar_rgb``, about three times slower.

    The attempt is made in a child process: with some versions of LLVM the process aborts, which no exception
    shows.
    """
    require_renderer()
    child = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, timeout=300, check=False)
    return "llvm_ad_rgb" if child.returncode == 0 else "scalar_rgb"


def versions() -> dict[str, str]:
    """The versions of the renderer's packages; a missing denoiser is ``"absent"``."""
    found = {}
    for package in ("mitsuba", "drjit", "embreex", "pyoidn", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


class Denoiser:
    """Open Image Denoise on one thread."""

    def __init__(self) -> None:
        import pyoidn

        self._oidn: Any = pyoidn
        self._device: Any = pyoidn.Device()
        self._device.set_int("numThreads", 1)
        self._device.set_bool("setAffinity", False)
        self._device.commit()

    def __call__(self, colour: Image, albedo: Image, normals: Image) -> Image:
        """The picture without noise; all ``[H, W, 3]``."""
        height, width, _ = colour.shape
        names = ("color", "albedo", "normal", "output")
        maps = (colour, albedo, np.nan_to_num(normals), np.zeros_like(colour))
        buffers = [np.ascontiguousarray(each, np.float32) for each in maps]
        denoise = self._oidn.Filter(self._device, "RT")
        for name, buffer in zip(names, buffers, strict=True):
            denoise.set_image(name, buffer, self._oidn.OIDN_FORMAT_FLOAT3, width, height)
        denoise.set_bool("hdr", True)
        denoise.commit()
        denoise.execute()
        return buffers[3]


class Renderer:
    """Renders rooms; make one for each process.

    Args:
        variant: The Mitsuba variant, see `fastest_variant`.

    Raises:
        MissingExtraError: If mitsuba is not installed.
    """

    def __init__(self, variant: Variant) -> None:
        require_renderer()
        import drjit
        import mitsuba

        mitsuba.set_variant(variant)
        drjit.set_thread_count(1)
        self._mi: Any = mitsuba
        self._vectorised = variant == "llvm_ad_rgb"
        self._denoise = Denoiser() if denoiser_installed() else None

    def scene(self, assembly: Assembly) -> Any:
        """The Mitsuba scene of a room."""
        mi = self._mi

        def texture(values: Image) -> dict[str, Any]:
            bitmap = mi.Bitmap(np.ascontiguousarray(values))
            return {"type": "bitmap", "bitmap": bitmap, "raw": True, "wrap_mode": "clamp"}

        bsdf = mi.load_dict(
            {
                "type": "twosided",
                "bsdf": {
                    "type": "principled",
                    "base_color": texture(assembly.albedo),
                    "roughness": texture(assembly.surface[..., :1]),
                    "metallic": texture(assembly.surface[..., 1:]),
                    "specular": 0.4,
                },
            }
        )
        shapes = {"type": "scene"}
        for group in range(EMITTERS + 1):
            shapes[f"group{group}"] = self._mesh(assembly, group, bsdf)
        return mi.load_dict(shapes)

    def _mesh(self, assembly: Assembly, group: int, bsdf: Any) -> Any:
        mi = self._mi
        chosen = np.flatnonzero(assembly.group == group)
        corners = (chosen[:, None] * 3 + np.arange(3)).ravel()
        vertices, normals, uv = assembly.vertices[corners], assembly.normals[corners], assembly.uv[corners]
        if not len(chosen):  # an absent emitter is a dark speck under the floor
            vertices = np.array([[0, 0, -9.0], [1e-3, 0, -9.0], [0, 1e-3, -9.0]])
            normals, uv = np.tile([[0, 0, -1.0]], (3, 1)), np.zeros((3, 2))
        faces = np.arange(len(vertices)).reshape(-1, 3)
        properties = mi.Properties()
        properties["bsdf"] = bsdf
        if group:
            radiance = [float(value) for value in assembly.radiance[group]]
            sides = vertices[faces]
            area = (
                0.5
                * np.linalg.norm(np.cross(sides[:, 1] - sides[:, 0], sides[:, 2] - sides[:, 0]), axis=1).sum()
            )
            properties["emitter"] = mi.load_dict(
                {
                    "type": "area",
                    "radiance": {"type": "rgb", "value": radiance},
                    "sampling_weight": max(float(np.mean(radiance) * area), 1e-6),
                }
            )
        mesh = mi.Mesh(
            f"group{group}",
            len(vertices),
            len(faces),
            has_vertex_normals=group == 0,
            has_vertex_texcoords=True,
            props=properties,
        )
        parameters = mi.traverse(mesh)
        arrays = {"vertex_positions": vertices, "vertex_texcoords": uv}
        if group == 0:
            arrays["vertex_normals"] = normals
        for name, values in arrays.items():
            flat = values.astype(np.float32).ravel()
            parameters[name] = mi.Float(flat) if self._vectorised else flat
        flat_faces = faces.astype(np.uint32).ravel()
        parameters["faces"] = mi.UInt32(flat_faces) if self._vectorised else flat_faces
        parameters.update()
        return mesh

    def _sensor(self, camera: Camera, height: int, width: int) -> Any:
        mi = self._mi
        matrix = np.eye(4)
        right, down, forward = camera.rotation
        matrix[:3, 0], matrix[:3, 1], matrix[:3, 2], matrix[:3, 3] = -right, -down, forward, camera.position
        film = {
            "type": "hdrfilm",
            "width": width,
            "height": height,
            "pixel_format": "rgb",
            "rfilter": {"type": "box"},
        }
        return mi.load_dict(
            {
                "type": "perspective",
                "fov": float(camera.field_of_view),
                "fov_axis": "x",
                "near_clip": 0.01,
                "to_world": mi.ScalarTransform4f(matrix),
                "film": film,
                "sampler": {"type": "independent"},
            }
        )

    def picture(
        self,
        scene: Any,
        camera: Camera,
        labels: Labels,
        *,
        samples: int,
        bounces: int = 5,
        seed: int = 0,
    ) -> NDArray[np.uint8]:
        """A view as sRGB, uint8 ``[H, W, 3]``.

        Args:
            scene: From `scene`.
            camera: The view.
            labels: Its labels; their size is the picture's.
            samples: Samples a pixel, ten times as many without a denoiser.
            bounces: Longest path.
            seed: Of the samples, and of the windows' brightness.
        """
        height, width = labels.semantic.shape
        if self._denoise is None:
            samples *= DENOISER_FACTOR
        integrator = self._mi.load_dict({"type": "path", "max_depth": bounces, "rr_depth": 4})
        sensor = self._sensor(camera, height, width)
        rendered = self._mi.render(scene, sensor=sensor, integrator=integrator, spp=samples, seed=seed)
        colour = np.nan_to_num(np.array(rendered, np.float32)[..., :3])
        shown = (labels.group == 1) | (labels.group == 2)
        colour = colour * _exposure(colour, ~shown)
        rng = np.random.default_rng(seed)
        panes = self._panes(labels, float(rng.uniform(0.9, 2.0)))
        # a pixel beside a pane has caught some of its true, blinding radiance
        beside = _grown(shown) & ~shown
        colour = np.where(beside[..., None], np.minimum(colour, 0.8), colour)
        colour = np.where(shown[..., None], panes, np.minimum(colour, 12))
        if self._denoise is not None:
            smooth = self._denoise(colour, labels.albedo, labels.normals)
            colour = np.where(shown[..., None], panes, smooth)
        return _develop(colour)

    @staticmethod
    def _panes(labels: Labels, daylight: float) -> Image:
        """What windows and screens show, in exposed units: the picture on them at a brightness of its own."""
        brightness = np.where(labels.group == 1, daylight, 0.6)[..., None]
        return (labels.albedo * brightness).astype(np.float32)


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask with its eight neighbours."""
    padded = np.pad(mask, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    grown: NDArray[np.bool_] = rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
    return grown


def _exposure(colour: Image, counted: NDArray[np.bool_]) -> float:
    """The factor that brings the counted pixels to a middle brightness."""
    luminance = (colour @ np.array([0.21, 0.72, 0.07], np.float32))[counted]
    if not luminance.size:
        return 1.0
    mean = float(np.exp(np.log(np.clip(luminance, 1e-3, 8)).mean()))
    return 0.15 / max(0.6 * mean + 0.4 * float(np.median(luminance)), 1e-3)


def _develop(colour: Image) -> NDArray[np.uint8]:
    """Exposed linear light to sRGB bytes through a film-like curve (Narkowicz' fit of ACES)."""
    x = np.maximum(colour, 0)
    x = np.clip(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14), 0, 1)
    x = np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-8) ** (1 / 2.4) - 0.055)
    return (np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8)
