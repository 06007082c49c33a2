"""Where a study's runs are computed: processes of this machine, a Ray cluster, or SLURM."""
