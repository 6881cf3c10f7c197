# SPDX-License-Identifier: Apache-2.0
"""The engine below the front ends: it runs recurrent networks for `layers` and for any later front end.

It takes flat parameters of any owner (`weights.py`) and knows no layers, no parameter names and no
initialisers. `structure.py` says what a network is, `stack.py` runs it, and the other files serve a run:
`packed.py` the forms of a caller's arrays, `states.py` the states, `options.py` and `call_options.py` the options of
a network and of one call, `lengths.py` rows of different lengths, `kernels.py` the packed weights, `tape.py` what
backward needs, `stream.py` single steps.
"""
