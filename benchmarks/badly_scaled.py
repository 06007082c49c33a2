"""Tasks whose losses differ a thousandfold: our exact rules beside TorchJD at its defaults."""
