"""The page as a Hugging Face Space: this folder is the whole of it (docs/web-page.md)."""

from difffuse_hf.app.server import serve

serve("demo")
