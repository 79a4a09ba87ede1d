"""From what is on disk to prompts: clips, manifests, counterfactual pairs."""
