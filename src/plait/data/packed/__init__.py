"""A data set packed once, so that reading a sample costs next to nothing: no decoding, no copying.

::

    DIR/pack.json                what it is: splits, fields, classes, options, checksums; written last
    DIR/shard-00000.safetensors  the maps of some samples, "<sample's place in the shard>/<field>"

Every label is stored in the smallest of a few types from which exactly the same label comes back: class ids
in a byte, masks of 256 levels in a byte, depth that came from whole millimetres in two, all else as float32.
Shards are memory-mapped, so any number of processes share one copy in the system's memory.
"""
