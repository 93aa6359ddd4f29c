"""Models, data sets and uploads: Hugging Face and ModelScope, through their own libraries and caches."""
