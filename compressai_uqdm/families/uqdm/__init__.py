"""UQDM as published: a diffusion model of pixels, whose latents are coded."""
