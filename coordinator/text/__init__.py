"""Between text and tokens: prompts going in, answers coming out."""
