"""Every design of every class: at least three for each class of furniture."""

from __future__ import annotations

from collections.abc import Callable

from plait.data.rooms.furniture import fixtures, seating, storage, things
from plait.data.rooms.furniture.piece import Archetype, Part, Piece, Surface
from plait.data.rooms.textures import Palette

ARCHETYPES: dict[str, tuple[Archetype, ...]] = {
    "cabinet": (
        storage.sideboard,
        storage.wardrobe,
        storage.chest_of_drawers,
        storage.nightstand,
        storage.lowboard,
    ),
    "bed": (seating.panel_bed, seating.slatted_bed, seating.upholstered_bed, seating.platform_bed),
    "chair": (seating.dining_chair, seating.shell_chair, seating.office_chair, seating.stool),
    "sofa": (seating.block_sofa, seating.slim_sofa, seating.armchair, seating.corner_sofa),
    "table": (
        storage.four_leg_table,
        storage.coffee_table,
        storage.round_table,
        storage.trestle_desk,
        storage.drawer_desk,
    ),
    "door": (fixtures.panel_door, fixtures.flush_door, fixtures.glazed_door),
    "window": (
        fixtures.casement_window,
        fixtures.grid_window,
        fixtures.picture_window,
        fixtures.tall_window,
    ),
    "bookshelf": (storage.tall_bookshelf, storage.cube_shelf, storage.ladder_shelf, storage.wall_shelf),
    "picture": (fixtures.framed_picture, fixtures.canvas, fixtures.poster, things.framed_photo),
    "lamp": (
        fixtures.floor_lamp,
        fixtures.tripod_lamp,
        fixtures.arc_lamp,
        fixtures.ceiling_dome,
        fixtures.pendant,
        fixtures.globe_pendant,
        things.table_lamp,
        things.globe_lamp,
        things.desk_lamp,
    ),
    "television": (fixtures.standing_television, fixtures.wall_television, fixtures.monitor),
    "pillow": (seating.bed_pillow, seating.scatter_cushion, seating.bolster, seating.floor_cushion),
    "rug": (things.rectangular_rug, things.round_rug, things.runner),
    "books": (things.book_row, things.leaning_books, things.book_pile, things.open_book),
    "box": (things.cardboard_box, things.open_carton, things.basket, things.storage_box),
    "plant": (things.bushy_plant, things.snake_plant, things.small_tree),
}
"""The designs of each class that needs nothing but the room's palette."""

CURTAINS: tuple[Callable[[Palette, Piece], Piece], ...] = (
    fixtures.long_curtains,
    fixtures.short_curtains,
    fixtures.side_curtain,
    fixtures.roller_blind,
)
"""The designs of the class curtain, which hang at a given window."""

__all__ = ["ARCHETYPES", "CURTAINS", "Archetype", "Part", "Piece", "Surface"]
