"""From images to strings and back: what models do with the symbols of their stages."""

# CompressAI first: when its zoo is imported it imports us, and must find us whole.
import compressai.zoo  # noqa: F401
