"""What every kind of run needs: its folder, jobs, device, training and results."""
