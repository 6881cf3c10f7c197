// SPDX-License-Identifier: Apache-2.0
// The list of cells: each one is compiled for every dtype and instruction set and found by its name.
#pragma once

#include "cells/gru.h"
#include "cells/lstm.h"
#include "cells/multi_stage.h"
#include "cells/rnn.h"
#include "cells/slstm.h"

namespace bptt::cells {

template <class... Cells>
struct List {};
using All = List<RNNTanh, RNNReLU, RNNLinear, LSTM, PeepholeLSTM, CoupledLSTM, ProjectedLSTM, ProjectedPeepholeLSTM,
                 LSTMNorm, GRU, GRUBefore, GRUNorm, SLSTM, SLSTMExp>;

}  // namespace bptt::cells
