"""SlimFlow: small one-step generators from rectified flows."""
