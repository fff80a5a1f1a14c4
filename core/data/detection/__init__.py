"""Scans and boxes for detectors, in the layout of OpenPCDet's custom data sets.

``points/*.npy``, ``labels/*.txt`` and ``ImageSets/*.txt``. A box is a line ``x y z length width height heading name``
in m and rad: the middle of the box, x forward, y left, z up, the heading counter-clockwise from x (OpenPCDet's unified
definition). Points are in the same frame, f32 [N, 4] x, y, z, intensity.
"""
