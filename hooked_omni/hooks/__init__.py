"""Hook points, the activation cache, and interventions as data."""
