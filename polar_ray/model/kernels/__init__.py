"""Triton kernels for what lies between a layer's matrix products, and for attention along paths.

Each file has one kernel; `polar_ray.model.steps` and `polar_ray.model.attention` have the same in
plain torch, which is what the kernels are held against, and what runs where they are not chosen:
on a CPU, without Triton, and where `polar_ray.model.choice` finds them wrong or slower. They were
proven in Triton's interpreter, not yet measured on a GPU. Imported only once a GPU is in use.
"""
