"""These modules hold the contract's rules that a `.proto` file cannot express.

Server, worker and client import them, so that all three accept the same values. A function `wrong_...` returns a text
that says what is wrong or what to give instead, without a full stop. None means that the value is good. Each part puts
the text into its own error. Only the standard library is imported here.
"""
