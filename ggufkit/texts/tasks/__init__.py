"""Questions with several answers of which one is right: from hubs and files, in the formats that llama-perplexity reads."""
