"""Raw rows -> prompts, responses and pairs: adapters, rules, decontamination, mixing."""
