# SPDX-License-Identifier: Apache-2.0
"""What runs recurrent networks below their front ends: `layers` here, and any that is to come.

It takes flat parameters of whoever has them (`weights.py`) and knows no layer, no parameter names and no
initialisers. `structure.py` says what a network is, `stack.py` runs it, and the other files are what a run needs:
`packed.py` the forms of a caller's arrays, `states.py` the states, `options.py` and `call_options.py` what is asked of
a network and of one call, `kernels.py` the packed weights, `tape.py` what backward needs, `stream.py` step by step,
`memory.py` how much memory a call takes.
"""
