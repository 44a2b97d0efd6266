"""Tokenizers: :mod:`.tokenizer` for dense modalities (paper B.3), :mod:`.text` for captions and boxes (paper B.2).

Import from the modules: ``text`` needs no torch.
"""
