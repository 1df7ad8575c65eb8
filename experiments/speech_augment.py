"""Other voices out of those that there are: spectra stretched and shifted along the mel scale, some bands missing."""

import jax
import jax.numpy as jnp


def other_voices(key: jax.Array, features: jax.Array, *, warp: float, mask: int) -> jax.Array:
    r"""Stretch each clip's spectra about their middle and shift them, then silence a few neighbouring bands.

    .. math:: x'_t(m) = x_t((m - c) a + c + b)

    A longer vocal tract has lower formants: with `a` and `b` a voice becomes one that nobody has. Bands between those
    that there are come by linear interpolation; those beyond are as the outermost.

    Args:
      key: PRNG key; each clip draws its own `a`, `b` and bands.
      features: float `[batch, frames, bands]`, each band with mean 0 over its clip.
      warp: `a` is from 1 - warp to 1 + warp, and `b` up to a third of warp times the bands, either way.
      mask: bands that are set to 0, at most; how many is drawn.

    Returns:
      The same shape; every frame is made of itself alone.

    Example:
      >>> features = jnp.ones((2, 3, 40))
      >>> other_voices(jax.random.key(0), features, warp=0.2, mask=0).shape
      (2, 3, 40)

    Source: Jaitly and Hinton, Vocal Tract Length Perturbation, 2013; Park et al., SpecAugment, 2019,
      https://arxiv.org/abs/1904.08779
    """
    clips, _, bands = features.shape
    by_stretch, by_shift, by_width, by_start = jax.random.split(key, 4)
    band, middle = jnp.arange(bands, dtype=jnp.float32)[None], (bands - 1) / 2
    stretch = 1 + warp * jax.random.uniform(by_stretch, (clips, 1), minval=-1)
    shift = warp / 3 * bands * jax.random.uniform(by_shift, (clips, 1), minval=-1)
    place = jnp.clip((band - middle) * stretch + middle + shift, 0, bands - 1)
    weights = jnp.maximum(0, 1 - jnp.abs(place[..., None] - band[None]))  # [clips, bands, bands from]
    width = jax.random.uniform(by_width, (clips, 1), maxval=mask + 1.0)
    start = jax.random.uniform(by_start, (clips, 1)) * (bands - width)
    kept = (band < start) | (band >= start + jnp.floor(width))
    return jnp.einsum("btf,bmf->btm", features, weights * kept[..., None])
