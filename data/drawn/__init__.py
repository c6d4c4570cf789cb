"""Synthetic images of surfaces with defects, drawn from random numbers alone: many materials, many families of defects.

`scene.draw_scene` draws one image with its boxes. A material (`materials/`) draws a defect-free surface and says which
families (`families/`) can occur on it; `light` says how it is lit and photographed, `marks` what harmless things lie on
it. A new material or family is a function in the fitting file and a line in that folder's `__init__`.
"""
