"""One model behind HTTP: the same requests as everywhere else (docs/service.md).

``limits`` bounds what is taken, ``jobs`` is what becomes of a request, ``worker`` the thread that runs the model,
``passes`` and ``answers`` what clients are told, ``door`` who may come in, ``app`` the endpoints, ``server`` the
process, ``client`` the other side. Starlette and uvicorn come with ``pip install 'open4m[serve]'``.
"""
