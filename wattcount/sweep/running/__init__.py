"""Who measures a point, and where: this process, lanes of this machine, jobs of a cluster."""
