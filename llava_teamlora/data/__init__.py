"""From LLaVA's JSON and pictures to batches: records -> templates -> tokenize -> dataset -> sampler, collator."""
