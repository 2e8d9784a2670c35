"""The listeners: a small framework over plain ASGI, and the handlers of each plane, one file per noun."""
