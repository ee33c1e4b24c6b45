"""Rehearsals: every preset at sizes of seconds, on the plain CPU and on a CUDA device that is none.

    python -m tools.rehearsal                          the gpu presets of all methods, on the latter
    python -m tools.rehearsal radd quest --arm latency
    python -m tools.rehearsal --device cpu --scale smoke,small,gpu
    python -m tools.rehearsal --check                  does the stand-in raise what it must?

A preset keeps its arms, networks, precisions, ways of sampling: what decides which lines run. Its
counts of samples, steps, updates become a handful (`shrink`), its data random (`data`). So what is
seen is whether the code runs, not what it finds.

**The stand-in** makes a machine without a GPU look like one with a CUDA device, with real values:
``torch.device("cuda")`` exists, tensors report ``cuda:0``, ``.numpy()`` on them fails; generators,
autocast, events, streams and the caching allocator with its peaks work. Three libraries are built
once with g++ (`build`): ``runtime.cpp`` and ``driver.c``, preloaded, answer for libcudart and
libcuda; ``kernels.cpp`` puts one kernel over every ATen operator that has a CUDA kernel. It raises
where CUDA does (tensors or generators of another device, integer matrix products, what has no
deterministic form), computes with the CPU's kernel, rounds float32 products to TF32 where torch's
settings allow it, and counts launches, and reads of a clock while launches are pending.

It cannot see: other values of cuDNN, cuBLAS and flash attention; actual nondeterminism and races;
limits of single kernels; memory that runs out at true sizes; custom CUDA code (torchao, triton);
more than one GPU; `torch.compile`. It is bound to the locked version of torch and to Linux on
x86-64.
"""
