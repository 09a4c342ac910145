"""Many small classifiers trained together on one device."""
