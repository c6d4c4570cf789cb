"""What a training run is: settings, networks, trainer, processes, reports."""
