"""Jobs on whatever SkyPilot reaches: Kubernetes, clouds, Slurm."""
