"""How a label is stored in a pack: the smallest of a few forms from which exactly it comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


def _bytes_from_ids(ids: Tensor) -> Tensor:
    return ids.to(torch.uint8)


def _ids_from_bytes(stored: Tensor) -> Tensor:
    return stored.long()


def _short_from_ids(ids: Tensor) -> Tensor:
    return ids.to(torch.int32)


def _levels_from_mask(mask: Tensor) -> Tensor:
    return (mask * 255).round().nan_to_num(0).clamp(0, 255).to(torch.uint8)


def _mask_from_levels(stored: Tensor) -> Tensor:
    return stored.float().mul_(1 / 255)


def _millimetres_from_depth(depth: Tensor) -> Tensor:
    return (depth * 1000).round().nan_to_num(0).clamp(0, 65535).to(torch.uint16)


def _depth_from_millimetres(stored: Tensor) -> Tensor:
    metres = stored.float().mul_(1e-3)
    return metres.masked_fill_(metres == 0, torch.nan)


def _unchanged(values: Tensor) -> Tensor:
    return values


def copied(stored: Tensor) -> Tensor:
    """A map of one's own: what is mapped is shared by all who read it here, and may be changed by none."""
    return stored.clone()


Form = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
FORMS: Mapping[str, Form] = {
    "ids8": (_bytes_from_ids, _ids_from_bytes),
    "ids32": (_short_from_ids, _ids_from_bytes),
    "levels": (_levels_from_mask, _mask_from_levels),
    "millimetres": (_millimetres_from_depth, _depth_from_millimetres),
    "plain": (_unchanged, copied),
}
"""How a label is stored, and how it comes back; the first that is exact is taken."""

CANDIDATES: Mapping[str, Sequence[str]] = {
    "semantic": ("ids8", "ids32", "plain"),
    "mask": ("levels", "plain"),
    "depth": ("millimetres", "plain"),
}


def exact_form(label: Tensor, kind: str) -> tuple[str, Tensor]:
    """The name of the smallest form that gives exactly this label back, and the label in it."""
    for form in CANDIDATES.get(kind, ("plain",)):
        store, restore = FORMS[form]
        stored = store(label)
        back = restore(stored)
        if back.dtype == label.dtype and torch.equal(back.nan_to_num(-1.0), label.nan_to_num(-1.0)):
            return form, stored
    raise AssertionError("the plain form is always exact")
