"""PASCAL-Context with the labels of PASCAL-Part and distilled normals and saliency (PASCAL_MT)."""
