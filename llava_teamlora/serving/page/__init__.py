"""The chat page: built with Gradio, one process, nothing from outside."""

from llava_teamlora.serving.page.opening import Opened, check_gradio, free_port, open_page
from llava_teamlora.serving.page.settings import Example, PageSettings, read_examples

__all__ = ["Example", "Opened", "PageSettings", "check_gradio", "free_port", "open_page", "read_examples"]
