"""Views of texture-less objects, rendered without OpenGL or a display: mesh in; picture, mask and depth out."""

from fusion_datasets.rendering.camera import PRIMESENSE, Camera, Pose, look_at, view_sphere
from fusion_datasets.rendering.mesh import Mesh
from fusion_datasets.rendering.photograph import CLEAN, REAL, Photography
from fusion_datasets.rendering.ply import read_ply
from fusion_datasets.rendering.shading import STUDIO, Lighting, Material
from fusion_datasets.rendering.view import Scene, View, render_view

__all__ = [
    "CLEAN",
    "PRIMESENSE",
    "REAL",
    "STUDIO",
    "Camera",
    "Lighting",
    "Material",
    "Mesh",
    "Photography",
    "Pose",
    "Scene",
    "View",
    "look_at",
    "read_ply",
    "render_view",
    "view_sphere",
]
