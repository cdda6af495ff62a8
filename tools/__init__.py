"""What keeps the house in order: the environment, the checks, the lints. The product never imports it."""
