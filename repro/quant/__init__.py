"""Post-training quantisation: grids, range searches, learned rounding, quantised networks.

Import from the modules:

| module | holds |
| --- | --- |
| `affine`, `floating` | integer and floating-point grids |
| `ranges`, `search`, `scores` | from a tensor to its grid |
| `rounding` | rounding rules that are learned |
| `layers` | quantised copies of networks |
| `calibration` | the inputs they are calibrated on |
| `reconstruction` | learning roundings and steps, unit after unit |
| `study` | how a quantised network is compared with full precision |
| `deploy`, `gpu` | real low-precision kernels |

Nothing is imported here, so that a result depends on no more of the package than it uses.
"""
