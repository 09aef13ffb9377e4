"""lm-eval's protocol: its own prompts and log-likelihoods. No table mixes its figures with ``evaluate run``'s."""
