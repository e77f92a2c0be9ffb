"""Phantoms as a set of masses, two a patient."""

from diagnet.data.mass import Mass, MassSet


def masses_of(images, labels):
    """A set of masses: image k belongs to patient k // 2."""
    names = ("benign", "malignant")
    return MassSet(
        tuple(Mass(i, None, names[k], f"P{n // 2}") for n, (i, k) in enumerate(zip(images, labels, strict=True)))
    )
