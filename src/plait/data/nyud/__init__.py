"""NYU Depth v2: 1,449 indoor photographs with classes, depth, surface normals and object boundaries."""
