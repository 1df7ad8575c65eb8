"""Augmentation of image batches: pure functions of `(key, images, targets)`, for the dense loss of soft targets.

Each example is changed on its own terms. They compose: `chain` applies one after the other, `one_of` draws which.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Images = jax.Array
"""Float `[batch, height, width, channels]`; 0 is what comes in from outside."""
Targets = jax.Array
"""Float `[batch, classes]`, a distribution each."""
Augmentation = Callable[[jax.Array, Images, Targets], tuple[Images, Targets]]


def shift(key: jax.Array, images: Images, targets: Targets, *, pixels: int) -> tuple[Images, Targets]:
    """Move each image by up to `pixels` whole pixels, up or down and left or right; zeros come in.

    Args:
      key: PRNG key.
      images: float `[batch, height, width, channels]`.
      targets: float `[batch, classes]`; they stay.
      pixels: the largest move.

    Example:
      >>> vary = jax.jit(shift, static_argnames="pixels")
      >>> moved, _ = vary(jax.random.key(0), jnp.ones((1, 4, 4, 1)), jnp.ones((1, 2)), pixels=1)
      >>> moved.shape
      (1, 4, 4, 1)

    Source: Simard, Steinkraus and Platt 2003, https://doi.org/10.1109/ICDAR.2003.1227801
    """
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * pixels + 1)
    padded = jnp.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))

    def window(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(window)(padded, corners), targets


def crop(key: jax.Array, images: Images, targets: Targets, *, smallest: float) -> tuple[Images, Targets]:
    """Cut a window out of each image, of a random size and at a random place, and scale it up to the whole size.

    Args:
      key: PRNG key.
      images: float `[batch, height, width, channels]`.
      targets: float `[batch, classes]`; they stay.
      smallest: share of each side that the smallest window has, above 0 and at most 1.

    Example:
      >>> vary = jax.jit(crop, static_argnames="smallest")
      >>> cut, _ = vary(jax.random.key(0), jnp.ones((1, 4, 4, 1)), jnp.ones((1, 2)), smallest=0.5)
      >>> bool(jnp.allclose(cut, 1))
      True

    Source: Szegedy et al. 2014, https://arxiv.org/abs/1409.4842, with the sides' ratio kept.
    """
    size_key, place_key = jax.random.split(key)
    shares = jax.random.uniform(size_key, (len(images),), minval=smallest, maxval=1.0)
    places = jax.random.uniform(place_key, (len(images), 2))
    sides = jnp.array(images.shape[1:3], jnp.float32)

    def window(image: jax.Array, share: jax.Array, place: jax.Array) -> jax.Array:
        corner = place * (1 - share) * sides
        scale = jnp.full(2, 1 / share)
        return jax.image.scale_and_translate(
            image, image.shape, (0, 1), scale, -corner / share, "linear", antialias=False
        )

    return jax.vmap(window)(images, shares, places), targets


def mixup(key: jax.Array, images: Images, targets: Targets, *, alpha: float) -> tuple[Images, Targets]:
    r"""Blend each example with another of the batch, pixels and targets alike.

    .. math:: \lambda x_i + (1 - \lambda) x_j, \quad \lambda t_i + (1 - \lambda) t_j,
        \quad \lambda \sim \mathrm{Beta}(\alpha, \alpha)

    Args:
      key: PRNG key.
      images: float `[batch, height, width, channels]`.
      targets: float `[batch, classes]`.
      alpha: above 0; 1 draws every share alike, less prefers examples that are almost whole.

    Example:
      >>> vary = jax.jit(mixup, static_argnames="alpha")
      >>> _, mixed = vary(jax.random.key(0), jnp.ones((8, 4, 4, 1)), jnp.eye(8), alpha=1.0)
      >>> bool(jnp.allclose(mixed.sum(-1), 1))
      True

    Source: Zhang et al. 2017, https://arxiv.org/abs/1710.09412; here each example draws a share of its own.
    """
    order_key, share_key = jax.random.split(key)
    order = jax.random.permutation(order_key, len(images))
    shares = jax.random.beta(share_key, alpha, alpha, (len(images),))
    return _blend(images, images[order], shares[:, None, None, None]), _blend(targets, targets[order], shares[:, None])


def cutmix(key: jax.Array, images: Images, targets: Targets, *, alpha: float) -> tuple[Images, Targets]:
    r"""Put a rectangle of another image of the batch into each; targets are blended by area.

    The rectangle has a share `1 - λ` of the area, `λ ~ Beta(α, α)`, and a centre anywhere; what lies outside of the
    image is cut off, and `λ` in the targets is the share that is left of the image itself.

    Args:
      key: PRNG key.
      images: float `[batch, height, width, channels]`.
      targets: float `[batch, classes]`.
      alpha: above 0; 1 draws every area alike.

    Example:
      >>> vary = jax.jit(cutmix, static_argnames="alpha")
      >>> _, mixed = vary(jax.random.key(0), jnp.ones((8, 4, 4, 1)), jnp.eye(8), alpha=1.0)
      >>> bool(jnp.allclose(mixed.sum(-1), 1))
      True

    Source: Yun et al. 2019, https://arxiv.org/abs/1905.04899; here each example draws a rectangle of its own.
    """
    batch, height, width, _ = images.shape
    order_key, share_key, place_key = jax.random.split(key, 3)
    order = jax.random.permutation(order_key, batch)
    half = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha, (batch,)))[:, None] / 2
    centre = jax.random.uniform(place_key, (batch, 2))

    def covered(length: int, axis: int) -> jax.Array:
        """`[batch, length]`: the pixels whose middles the rectangle covers."""
        middles = (jnp.arange(length) + 0.5)[None] / length
        return jnp.abs(middles - centre[:, axis : axis + 1]) < half

    inside = covered(height, 0)[:, :, None] & covered(width, 1)[:, None, :]
    shares = 1 - inside.mean((1, 2), dtype=jnp.float32)
    cut = jnp.where(inside[..., None], images[order], images)
    return cut, _blend(targets, targets[order], shares[:, None])


def _blend(one: jax.Array, other: jax.Array, share: jax.Array) -> jax.Array:
    return share.astype(one.dtype) * one + (1 - share).astype(one.dtype) * other


def chain(*augmentations: Augmentation) -> Augmentation:
    """Apply one after the other, each with a key of its own; none leaves everything as it is.

    Example:
      >>> same = chain()(jax.random.key(0), jnp.ones((1, 2, 2, 1)), jnp.eye(1))
      >>> same[0].shape
      (1, 2, 2, 1)
    """

    def augment(key: jax.Array, images: Images, targets: Targets) -> tuple[Images, Targets]:
        for i, augmentation in enumerate(augmentations):
            images, targets = augmentation(jax.random.fold_in(key, i), images, targets)
        return images, targets

    return augment


def one_of(*augmentations: Augmentation) -> Augmentation:
    """Draw one of them for each batch, all equally likely; none leaves everything as it is.

    Example:
      >>> from functools import partial
      >>> either = one_of(partial(mixup, alpha=0.2), partial(cutmix, alpha=1.0))
      >>> jax.jit(either)(jax.random.key(0), jnp.ones((3, 2, 2, 1)), jnp.eye(3))[1].shape
      (3, 3)
    """

    def augment(key: jax.Array, images: Images, targets: Targets) -> tuple[Images, Targets]:
        if not augmentations:
            return images, targets
        which_key, inner = jax.random.split(key)
        which = jax.random.randint(which_key, (), 0, len(augmentations))
        return jax.lax.switch(which, augmentations, inner, images, targets)

    return augment
