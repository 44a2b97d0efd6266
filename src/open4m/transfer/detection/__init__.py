"""Detection of objects: operators on boxes, and the parts of a Cascade Mask R-CNN on a simple feature pyramid (D.3)."""
