"""Weight sharing: the recipe, which child is trained when, the training, the evaluation."""
