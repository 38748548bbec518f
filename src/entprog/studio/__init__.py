"""A page in the browser for looking at what `prepare` keeps of videos, and for animating photos; needs gradio."""
