"""UQDM as published: a diffusion model in pixels whose latents are coded."""
